"""Stop the work on a round: by a stop file, by the round's budget, or because there is nothing left to learn.

The first two are checked whenever a stage reports progress, the last when the round's pairs are there.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.artifacts import MANIFEST, read_json, write_json
from components.campaign.config import CONFIG
from components.campaign.state import round_directory
from components.config import BudgetConfig
from components.records import Converged, RoundStopped

STOP_FILE = "STOP"
SPENT = "spent.json"
SECONDS_BETWEEN_LOOKS = 2.0
NEARLY_ALL = 0.9
"""Share of a policy's answers that say what a demonstration says, word for word, from which on it has converged. What
is left are the rare answers that a temperature above 0 draws; to unlearn them is to lower the temperature."""
MOST = 0.5
"""The same if too few other answers are left to train on."""


def refuse_if_stopped(campaign: Path) -> None:
    """Check for the file that stops a campaign.

    Raises:
        RoundStopped: The file exists.
    """
    path = campaign / STOP_FILE
    if path.exists():
        raise RoundStopped(f"the campaign was stopped by the file {path}: remove the file to continue")


def refuse_if_converged(directory: Path, *, min_pairs: int) -> None:
    """Check whether the policy answers as the demonstrations do, from which a round's pairs are built.

    Pairs of equal texts have the loss ln 2 whatever is trained: that is where training ends, and not a fault.

    Args:
        directory: Directory of the round, with its pairs published.
        min_pairs: Fewest pairs that a round trains on.

    Raises:
        Converged: Nearly all of its answers say what a demonstration says; or most do, and the others are too few.
    """
    message = convergence(read_json(directory / "collect_preferences" / "collect.json"), min_pairs=min_pairs)
    if message is not None:
        raise Converged(message)


def convergence(counts: Mapping[str, Any], *, min_pairs: int) -> str | None:
    """Say in one line that a policy answers as its demonstrations do; None if it does not, or there are none.

    Args:
        counts: Content of `collect.json`.
        min_pairs: Fewest pairs that a round trains on.
    """
    measured = counts.get("demonstrations")
    if measured is None or not measured["answers"] or (counts.get("feedback") or {}).get("rows"):
        return None  # users' thumbs are something else to learn from
    few = counts["pairs"] < min_pairs
    if measured["equal_share"] < (MOST if few else NEARLY_ALL):
        return None
    left = f", which leaves fewer pairs ({counts['pairs']}) than validation.min_pairs = {min_pairs}" if few else ""
    return (
        f"the policy answers as the demonstrations do: {measured['equal']} of its {measured['answers']} answers to "
        f"their prompts are theirs word for word{left}. It has converged, and nothing is wrong; to go on, add "
        "demonstrations"
    )


def converged_round(campaign: Path, last_round: int) -> str | None:
    """Say in one line that the round behind the last finished one is not trained; None if it has not converged.

    Args:
        campaign: The campaign's directory.
        last_round: The last finished round.
    """
    stage = round_directory(campaign, last_round + 1) / "collect_preferences"
    if not (stage / MANIFEST).is_file():
        return None
    min_pairs = read_json(campaign / CONFIG)["validation"]["min_pairs"]
    message = convergence(read_json(stage / "collect.json"), min_pairs=min_pairs)
    return None if message is None else f"round {last_round + 1} is not trained: {message}"


class RoundLimits:
    """End the running stage when the stop file appears or the budget is used up.

    Implements `components.runtime.progress.Listener`.
    """

    def __init__(self, round_directory: Path, budget: BudgetConfig) -> None:
        self.directory, self.budget = round_directory, budget
        self.spent_before = _spent(round_directory)
        self.started = self.looked = time.monotonic()
        self.look()

    @property
    def seconds(self) -> float:
        """Seconds of work on the round so far, over all its starts."""
        return self.spent_before + time.monotonic() - self.started

    def look(self) -> None:
        """Write down the seconds that the round has used, and check its limits.

        Raises:
            RoundStopped: The stop file exists, or the budget is used up.
        """
        self.looked = time.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / SPENT, {"seconds": self.seconds})
        refuse_if_stopped(self.directory.parent)
        minutes, cost = self.seconds / 60, self.seconds / 3600 * self.budget.cost_per_hour
        for used, limit, key in (
            (minutes, self.budget.max_round_minutes, "max_round_minutes"),
            (cost, self.budget.max_round_cost, "max_round_cost"),
        ):
            if limit and used >= limit:
                raise RoundStopped(
                    f"{self.directory.name} has used {used:.3g} of budget.{key} = {limit:g}: raise it to continue"
                )

    def began(self, round: str, stage: str) -> None:
        """Check the limits before the stage begins."""
        self.look()

    def advanced(self, done: int, total: int, text: str) -> None:
        """Check the limits every few seconds."""
        if time.monotonic() - self.looked > SECONDS_BETWEEN_LOOKS:
            self.look()

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Check the limits when the stage is published."""
        self.look()


def _spent(round_directory: Path) -> float:
    path = round_directory / SPENT
    return float(read_json(path)["seconds"]) if path.exists() else 0.0
