"""A disk that is full or read-only: one line that names it, no half result, and the next start finishes."""

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.labelling.database import opened
from components.labelling.plan import read_plan
from components.labelling.progress import close_due
from components.labelling.task import Vote, read_votes, write_task
from components.labelling.voting import add_vote
from tests.faults.campaigns import STAGES, WHOLE, Campaign, check_same
from tests.faults.disks import mount, small_disk
from tests.labelling.tasks import make_task

IN_STAGES = {f"in {stage}": f"before mkdir */.{stage}.tmp-* *" for stage in ("start", *STAGES)}
BETWEEN = {f"behind {stage}": f"after rename */{stage} behind *" for stage in ("start", *STAGES)}
FULL = {
    "before anything is written": "before mkdir struck behind nothing (1)",
    **IN_STAGES,
    "in a checkpoint": "before mkdir */.unfinished behind *",
    "in the second checkpoint": "after rename */checkpoints/*/step-000006 *",
    "while the model is saved": "after rename */checkpoints/*/step-000018 *",
    **BETWEEN,
    "while MLflow's database is made": "before commit .mlflow.db.making.tmp *",
    "while MLflow is written": "after commit mlflow.db *",
    "in the report": "after replace */campaign.json behind */promote (2)",
    "as the start is closed": "after replace */report.html behind *",
}
SAMPLE = ("in a checkpoint", "behind evaluate", "while MLflow is written", "in the report")


pytestmark = pytest.mark.privileged


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as place:
        yield place


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", FULL if WHOLE else SAMPLE)
def test_full_disk_is_told_in_one_line_and_the_same_command_finishes_once_there_is_room(
    moment: str, disk: Path, undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "full", model, runs=disk / "runs")
    campaign.runs.mkdir()
    ended = campaign.run(action="fill", at=FULL[moment])
    ballast = campaign.runs / "ballast"
    assert ballast.exists(), "the point was not reached"
    print(moment, ended.code, ended.lines, flush=True)
    ended.told(1, str(campaign.runs), "free some space")
    assert campaign.processes() == []
    ballast.unlink()
    campaign.run().went_well()
    check_same(campaign, undisturbed)


@pytest.mark.timeout(600)
def test_read_only_disk_is_told_in_one_line_and_the_same_command_finishes_once_it_is_writable(
    disk: Path, undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "read-only", model, runs=disk / "runs")
    campaign.runs.mkdir()
    mount("-o", "remount,ro", str(disk))
    campaign.run().told(1, str(campaign.runs), "Read-only file system", "mount it writable")
    mount("-o", "remount,rw", str(disk))
    campaign.run().went_well()
    check_same(campaign, undisturbed)


def test_votes_of_people_are_published_once_a_full_disk_has_room(disk: Path) -> None:
    campaign, now = disk / "demo", datetime(2026, 12, 1, tzinfo=UTC)
    task = make_task(num_items=40)
    directory = write_task(campaign, task)
    flag = "x" * 2000
    with opened(campaign) as database, database.writing() as connection:
        for item in task.items:
            given = {"shown_left": "first", "seconds": 1.0, "at": "2026-10-01T00:00:00+00:00", "flag": flag}
            add_vote(
                connection,
                read_plan(directory),
                Vote.model_validate(
                    {"vote_id": item.item_id, "item_id": item.item_id, "annotator": "ann", "choice": "first"} | given
                ),
            )
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    with pytest.raises((OSError, sqlite3.OperationalError), match=r"[Nn]o space|full|I/O"):
        close_due(campaign, now)
    assert read_votes(directory) is None
    ballast.unlink()
    assert close_due(campaign, now) == [task.task]
    votes = read_votes(directory)
    assert votes is not None
    assert (votes.closed, len(votes.votes)) == ("quota", 40)
