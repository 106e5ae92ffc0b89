"""A disk that is full or read-only: one line that names it, no half result, and the next start finishes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaigns import STAGES, WHOLE, Campaign, check_same
from tests.faults.disks import mount, small_disk

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
