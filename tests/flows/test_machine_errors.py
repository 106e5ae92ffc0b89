"""Failures of the machine and of the Prefect server outside of a stage: one line, never a traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from prefect import task

from components.config import CampaignConfig
from components.runtime.ports import free_port
from flows.terminal.console import reporting_errors

CHECKOUT = Path(__file__).parents[2]


def test_run_with_a_prefect_address_where_nobody_listens_is_one_line(tmp_path: Path) -> None:
    """It was a traceback of 138 lines."""
    api = f"http://127.0.0.1:{free_port()}/api"
    (tmp_path / "c.yaml").write_text("campaign: c")
    environment = os.environ | {"PREFECT_API_URL": api, "RATCHET_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "c.yaml")]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert line.startswith("ratchet: the Prefect server failed: ")
    assert api in line
    assert "correct PREFECT_API_URL" in line


@pytest.mark.usefixtures("prefect_session")
def test_run_on_a_disk_that_is_full_outside_of_a_stage_is_one_line(
    runs: Path, make_config: Callable[..., CampaignConfig], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The report and campaign.json are written between the stages: it was a traceback of 117 lines."""
    from flows import iterative_dpo
    from flows.commands.run import _run_flow

    @task
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", f"{runs}/small/report.html")

    monkeypatch.setattr(iterative_dpo, "start_campaign", full)
    with pytest.raises(typer.Exit) as ended, reporting_errors():
        _run_flow(make_config(), accept_changes=False, until=None, accept_audit=False)
    assert ended.value.exit_code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ratchet: ")]
    assert lines == [
        f"ratchet: [Errno 28] No space left on device: '{runs}/small/report.html': free some space, and run the same "
        "command again to continue"
    ]
