"""Stop the work on a round from outside: by a stop file, or by the round's budget.

Both are checked whenever a stage reports progress.
"""

import time
from pathlib import Path

from components.artifacts import read_json, write_json
from components.config import BudgetConfig
from components.records import RoundStopped

STOP_FILE = "STOP"
SPENT = "spent.json"
SECONDS_BETWEEN_LOOKS = 2.0


def refuse_if_stopped(campaign: Path) -> None:
    """Check for the file that stops a campaign.

    Raises:
        RoundStopped: The file exists.
    """
    path = campaign / STOP_FILE
    if path.exists():
        raise RoundStopped(f"the campaign was stopped by the file {path}: remove the file to continue")


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
