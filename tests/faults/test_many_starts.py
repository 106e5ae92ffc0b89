"""Starts at the same moment: of one campaign, and of two on a machine where nothing was prepared."""

from pathlib import Path

import psutil
import pytest

from tests.faults.campaigns import WHOLE, Campaign, check_records, check_same

BYTES = 1.2 * 2**30
"""What a start takes with its Prefect server, until it sees that another one runs."""
STARTS = max(3, min(20, int(psutil.virtual_memory().available / BYTES))) if WHOLE else 3
"""Twenty, or as many as the memory has room for."""


@pytest.mark.timeout(1800)
def test_many_starts_at_once_one_runs_and_the_others_say_so(undisturbed: Campaign, model: Path, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "many", model)
    children = [campaign.start(log=f"log-{number}.txt") for number in range(STARTS)]
    codes = [child.wait(timeout=1500) for child in children]
    told = [(tmp_path / "many" / f"log-{number}.txt").read_text() for number in range(STARTS)]
    assert codes == [0] * STARTS, told
    assert [text for text in told if "Traceback" in text] == []
    ran = [text for text in told if "dpo_train" in text]
    skipped = [text for text in told if "ratchet: skipped: campaign struck is already running (pid " in text]
    # A start that comes when the round is there has nothing to do, and nothing to say of others.
    late = [text for text in told if text not in ran and text not in skipped]
    print(f"{len(ran)} ran, {len(skipped)} were skipped, {len(late)} came behind the end", flush=True)
    assert len(ran) == 1, told
    assert all(len([line for line in text.splitlines() if line.startswith("ratchet: ")]) == 1 for text in skipped)
    assert skipped, told
    campaign.wait_for_processes()
    check_same(campaign, undisturbed)


@pytest.mark.timeout(1800)
def test_two_first_starts_on_a_fresh_home_share_it(undisturbed: Campaign, model: Path, tmp_path: Path) -> None:
    """The databases of Prefect and MLflow, and the directory of the campaigns, are made by whichever comes first."""
    runs, home = tmp_path / "runs", tmp_path / "home"
    first = Campaign(tmp_path / "first", model, runs=runs)
    second = Campaign(tmp_path / "second", model, runs=runs, name="second")
    for campaign in (first, second):
        campaign.prefect = home / ".prefect"
        campaign.environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    children = [(campaign, campaign.start()) for campaign in (first, second)]
    for campaign, child in children:
        assert child.wait(timeout=600) == 0, campaign.log()
        assert "Traceback" not in campaign.log()
    first.wait_for_processes()
    check_same(first, undisturbed)
    check_records(second, undisturbed)
