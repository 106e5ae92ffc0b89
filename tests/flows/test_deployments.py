"""The small flows of the Prefect page, run as they are deployed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.artifacts import read_json
from components.config import CampaignConfig

pytestmark = pytest.mark.usefixtures("prefect_session")
Make = Callable[..., CampaignConfig]


def test_report_and_gc_work_on_a_campaign_and_free_what_a_dry_run_names(runs: Path, make_config: Make) -> None:
    from flows.deployments import gc, report
    from flows.iterative_dpo import iterative_dpo

    # A gate that nothing passes: no round is a champion, so the first one's weights are nobody's after the second.
    iterative_dpo(make_config(num_rounds=2, gate={"max_length_ratio": 1e-6}))
    written = runs / "small" / "report.html"
    written.unlink()
    assert report("small") == str(written)
    assert written.stat().st_size > 1000
    weights = runs / "small" / "round-001" / "dpo_train" / "model"
    named = gc(keep=1, dry_run=True)
    assert named > 0
    assert weights.is_dir()
    assert gc(campaign="small", keep=1) >= named
    assert not weights.exists()
    assert read_json(runs / "small" / "round-001" / "collected.json")["what"] == "model"
    assert gc(keep=1) == 0


def test_report_and_gc_of_an_unknown_campaign_fail_with_one_line(runs: Path) -> None:
    from flows.deployments import gc, report

    for state in (report("nothing", return_state=True), gc(campaign="nothing", return_state=True)):
        assert state.is_failed()
        assert "no campaign nothing under" in state.message
        assert "\n" not in state.message
