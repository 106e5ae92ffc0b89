"""The directory of a study: its configuration, its results and what failed. Computes nothing."""

from pathlib import Path

from components.artifacts import read_json, write_json
from components.campaign.state import runs_directory
from components.config import StudyConfig
from components.records import Record
from components.study.outcomes import Outcome
from components.study.summary import ArmSummary

STUDIES = "studies"
"""Directory of the studies beside the campaigns."""
RESULTS = "study.json"


class Failure(Record):
    """An arm and a seed whose campaign did not reach its last round."""

    arm: str
    seed: int
    reason: str


class Results(Record):
    """Content of study.json."""

    config: StudyConfig
    outcomes: tuple[Outcome, ...]
    arms: tuple[ArmSummary, ...]
    failures: tuple[Failure, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every arm has every seed."""
        return len(self.outcomes) == len(self.config.arms) * len(self.config.seeds)


def study_directory(study: str) -> Path:
    """Return the directory of a study, whether it exists or not."""
    return runs_directory() / STUDIES / study


def write_results(directory: Path, results: Results) -> None:
    """Write study.json."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / RESULTS, results)


def read_results(directory: Path) -> Results | None:
    """Read study.json; None before the study's first arm is done."""
    path = directory / RESULTS
    return Results.model_validate(read_json(path)) if path.is_file() else None
