"""A clock that jumps: what is done is decided by content, and no time of a file or of this machine is asked."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.faults.campaigns import KILLED, WHOLE, Campaign, check_same

YEAR = timedelta(days=365)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("jump", [-YEAR, YEAR] if WHOLE else [YEAR], ids=lambda jump: f"{jump.days:+}-days")
def test_clock_that_jumped_between_two_starts_changes_nothing(
    jump: timedelta, undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    """The files of the first start are of the next year, or of the last, for the second one."""
    campaign = Campaign(tmp_path / "jumped", model)
    ended = campaign.run(action="kill", at="after rename */checkpoints/*/step-000012 *")
    assert ended.code == KILLED, ended.said
    done = campaign.manifests()
    seconds = time.time() + jump.total_seconds()
    for path in campaign.place.rglob("*"):
        os.utime(path, (seconds, seconds))
    lock = campaign.directory / ".lock"
    since = (datetime.now(UTC) + jump).isoformat(timespec="seconds")
    lock.write_text(json.dumps(json.loads(lock.read_text()) | {"since": since}))
    campaign.run().went_well()
    check_same(campaign, undisturbed)
    published = campaign.manifests()
    assert {name: published[name] for name in done} == done, "a finished stage ran again"
    trained = json.loads((campaign.directory / "round-001/dpo_train/train.json").read_text())
    assert trained["resumed_from_step"] == 12


@pytest.mark.timeout(900)
def test_clock_that_jumps_back_in_the_middle_of_a_start_changes_nothing(
    undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "jumps", model)
    campaign.run(action="jump", at="after rename */checkpoints/*/step-000012 *").went_well()
    assert any("step-000018" in point for point in campaign.points())
    check_same(campaign, undisturbed)
