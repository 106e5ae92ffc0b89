"""SIGTERM, at every kind of moment: one line, exit code 143, nothing left, and the next start finishes."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.campaigns import WHOLE, Campaign, Ended, check_same

LINE = "ratchet: ended by SIGTERM; run the same command again to continue"
ENDED = 128 + signal.SIGTERM
MOMENTS = {
    "the start is published": "before rename */round-000/start *",
    "a stage begins": "before mkdir */.collect_preferences.tmp-* *",
    "a checkpoint is written": "before replace */.unfinished/HASHES.json *",
    "a checkpoint is renamed": "before rename */checkpoints/*/step-000012 *",
    "a model is saved": "before replace */.dpo_train.tmp-*/MANIFEST.json *",
    "a stage is renamed": "before rename */round-001/evaluate *",
    "the round is recorded": "before replace */campaign.json behind */promote (1)",
    "MLflow is written": "before commit mlflow.db *",
    "the report is written": "before replace */report.html *",
    "the start is closed": "before replace */campaign.json behind */promote (3)",
}
SAMPLE = ("a checkpoint is written", "MLflow is written")


def check_ended(ended: Ended, campaign: Campaign, whole: Campaign) -> None:
    """Check how a start that was asked to end has ended, and that the next one finishes."""
    assert ended.told(ENDED, "SIGTERM") == LINE
    campaign.run().went_well()
    check_same(campaign, whole)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", MOMENTS if WHOLE else SAMPLE)
def test_start_asked_to_end_while_it_writes_ends_in_one_line(
    moment: str, undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "asked", model)
    check_ended(campaign.run(action="term", at=MOMENTS[moment]), campaign, undisturbed)


@pytest.mark.timeout(600)
def test_start_asked_to_end_while_it_trains_ends_in_one_line(
    undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "asked", model)
    child = campaign.start()
    campaign.wait_for("round-001/checkpoints/*/step-*", child)
    child.send_signal(signal.SIGTERM)
    check_ended(campaign.end(child), campaign, undisturbed)


@pytest.mark.timeout(600)
def test_start_asked_to_end_while_it_loads_ends_in_one_line(undisturbed: Campaign, model: Path, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "asked", model)
    for seconds in (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0) if WHOLE else (4.0,):
        child = campaign.start()
        wait_until_it_loads(child)
        time.sleep(seconds)
        child.send_signal(signal.SIGTERM)
        ended = campaign.end(child)
        assert ended.told(ENDED, "SIGTERM") == LINE
    campaign.run().went_well()
    check_same(campaign, undisturbed)


def wait_until_it_loads(child: subprocess.Popen[bytes]) -> None:
    """Wait until Python runs the command: before, no program can answer a signal."""
    status = Path(f"/proc/{child.pid}/status")
    handled = 1 << (signal.SIGTERM - 1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (caught,) = [line for line in status.read_text().splitlines() if line.startswith("SigCgt")]
        if int(caught.split()[1], 16) & handled:
            return
        time.sleep(0.005)
    raise AssertionError("no handler of SIGTERM")


@pytest.mark.privileged
@pytest.mark.timeout(600)
def test_first_process_of_a_container_asked_to_end_ends_in_one_line(
    undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    """The kernel gives the first process of a namespace no default action."""
    campaign = Campaign(tmp_path / "asked", model)
    unshare = shutil.which("unshare")
    assert unshare is not None, "install util-linux"
    child = campaign.start(before=[unshare, "--pid", "--fork", "--mount-proc"])
    campaign.wait_for("round-001/checkpoints/*/step-*", child)
    (first,) = psutil.Process(child.pid).children()
    assert Path(f"/proc/{first.pid}/status").read_text().partition("NSpid:")[2].split()[1] == "1"
    first.send_signal(signal.SIGTERM)
    check_ended(campaign.end(child), campaign, undisturbed)
