"""The directory of a sweep: its trials, its winner and how the confirmation ended. Computes nothing."""

from pathlib import Path

import yaml

from components.artifacts import read_json, write_bytes, write_json
from components.campaign.state import runs_directory
from components.config import CampaignConfig, SweepConfig
from components.records import Record
from components.study.files import Results as StudyResults

SWEEPS = "sweeps"
"""Directory of the sweeps beside the campaigns."""
RESULTS, WINNER_FILE = "sweep.json", "winner.yaml"
Value = str | int | float | bool


class Trial(Record):
    """A trial that has ended."""

    number: int
    values: dict[str, Value]
    state: str
    """`done`, `pruned` or `failed`."""
    value: float | None
    """What its champion reached; None unless it is done."""
    by_round: dict[int, float]
    """The same after each round."""
    reason: str = ""
    """Why it failed; empty if it did not."""


class SweepResults(Record):
    """Content of sweep.json."""

    config: SweepConfig
    default: dict[str, Value]
    """The base configuration's values of the parameters."""
    trials: tuple[Trial, ...]
    importances: dict[str, float]
    confirmation: StudyResults | None
    """None before the search has ended, and if nothing beat the base configuration."""

    @property
    def best(self) -> Trial | None:
        """The trial that reached most, the first of equals; None before one is done."""
        done = [trial for trial in self.trials if trial.value is not None]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    @property
    def is_searched(self) -> bool:
        """Whether all trials have ended."""
        return len(self.trials) >= self.config.trials


def sweep_directory(sweep: str) -> Path:
    """Return the directory of a sweep, whether it exists or not."""
    return runs_directory() / SWEEPS / sweep


def write_results(directory: Path, results: SweepResults) -> None:
    """Write sweep.json."""
    write_json(directory / RESULTS, results)


def read_results(directory: Path) -> SweepResults | None:
    """Read sweep.json; None before the first trial has ended."""
    path = directory / RESULTS
    return SweepResults.model_validate(read_json(path)) if path.is_file() else None


def write_winner(directory: Path, campaign: CampaignConfig, *, about: str) -> Path:
    """Write the winner as a file that `ratchet run` takes, with a line of what is known of it; return its path.

    It has all keys if some that are at their defaults mean something else when they are left out, as a learning rate
    does beside an adapter.
    """
    values = campaign.model_dump(mode="json", exclude_defaults=True)
    if CampaignConfig.model_validate(values) != campaign:
        values = campaign.model_dump(mode="json")
    text = f"# {about}\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)}"
    write_bytes(directory / WINNER_FILE, text.encode())
    return directory / WINNER_FILE
