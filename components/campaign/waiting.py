"""What a campaign waits for while no process works on it: people's votes, by which a round goes on."""

from pathlib import Path

from components.artifacts import read_record, write_json
from components.records import Record

WAITING = "waiting.json"


class Waiting(Record):
    """A round that waits for people."""

    round: int
    message: str
    """How far they are, and where they vote."""
    flow_run: str | None
    """The suspended flow run that continues the round when it is resumed; None if no worker can resume it."""
    since: str
    """UTC time, ISO 8601."""


def write_waiting(campaign: Path, waiting: Waiting) -> None:
    """Write down that a campaign's round waits."""
    write_json(campaign / WAITING, waiting)


def read_waiting(campaign: Path) -> Waiting | None:
    """Return what a campaign waits for; None if it does not."""
    path = campaign / WAITING
    return read_record(Waiting, path) if path.exists() else None


def end_waiting(campaign: Path) -> None:
    """Write down that a campaign is worked on again."""
    (campaign / WAITING).unlink(missing_ok=True)
