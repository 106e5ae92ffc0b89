"""A campaign's desk with a clock that tests set, and the application over it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.labelling.desk import Desk


class Clock:
    """The time, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 12, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """Directory of the campaign."""
    directory = tmp_path / "demo"
    directory.mkdir()
    return directory


@pytest.fixture
def desk(campaign: Path, clock: Clock) -> Iterator[Desk]:
    desk = Desk(campaign, clock=clock)
    yield desk
    desk.close()
