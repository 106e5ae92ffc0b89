"""The minute's line of a silent stage stands in the log of its run on the Prefect page."""

import os
import re
import subprocess
import sys
from pathlib import Path

STAGE = """
import time
def run(request, out):
    time.sleep(3)
    (out / "done.txt").write_text("done")
"""
SCRIPT = """
from pathlib import Path
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run
from components.config import GateConfig, TrackingConfig
from components.runtime.launch import STAGES, Stage, run_stage
from components.runtime.stage_log import logged_to
from components.records import Artifact, PromoteRequest
from flows.prefect_page.logs import logs_on_page
from flows.servers.temporary import prefect_server

STAGES["promote"] = Stage("a_silent_stage", PromoteRequest, 1)

@flow
def silent():
    with logs_on_page(TrackingConfig()), logged_to(Path("campaign.log")):
        request = PromoteRequest(evaluation=Artifact(path=Path("x"), digest="1"), gate=GateConfig())
        run_stage("promote", request, Path("round-001"))
    return str(flow_run.id)

with prefect_server():
    run = silent()
    with get_client(sync_client=True) as client:
        page = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])))
Path("lines.txt").write_text("\\n".join(log.message for log in page))
"""


def test_silent_stage_has_its_lines_on_the_page_of_its_run(tmp_path: Path) -> None:
    """A thread without the run's context would log to no run at all."""
    (tmp_path / "a_silent_stage.py").write_text(STAGE)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "RATCHET_PROGRESS_SECONDS": "0.5",
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert any(re.fullmatch(r"round-001  promote +\d s so far, memory \d+\.\d GiB", line) for line in lines), lines
    assert [line for line in lines if line.endswith("begins")] == ["round-001  promote               begins"]
    assert "begins" in (tmp_path / "campaign.log").read_text()
