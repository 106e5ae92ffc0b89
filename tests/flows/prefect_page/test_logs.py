"""The output of child processes reaches the run's page on Prefect: every line, once."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_page import logs

LINES, RANKS = 1500, 2
STAGE = f"""
import os
def run(request, out):
    for number in range({LINES}):
        print(f"rank {{os.environ['RANK']}} line {{number}}", flush=number % 7 == 0)
    print("~" * 25_000)
    (out / "done.txt").write_text("done")
"""
SCRIPT = """
from pathlib import Path
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run
from components.config import GateConfig, TrackingConfig
from components.runtime.launch import STAGES, Placement, Stage, run_stage
from components.records import Artifact, PromoteRequest
from flows.prefect_page.logs import logs_on_page
from flows.servers.temporary import prefect_server

STAGES["promote"] = Stage("a_printing_stage", PromoteRequest, 1)

@flow
def printing():
    with logs_on_page(TrackingConfig()):
        request = PromoteRequest(evaluation=Artifact(path=Path("x"), digest="1"), gate=GateConfig())
        run_stage("promote", request, Path("round"), where=Placement(num_processes=2))
    return str(flow_run.id)

with prefect_server():
    run = printing()
    with get_client(sync_client=True) as client:
        offset, lines = 0, []
        while page := client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), limit=200, offset=offset):
            offset += len(page)
            lines += [log.message for log in page]
Path("lines.txt").write_text("\\n".join(lines))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_child_lines_reach_prefect_none_lost_none_doubled(tmp_path: Path, unbuffered: str) -> None:
    (tmp_path / "a_printing_stage.py").write_text(STAGE)
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": unbuffered,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}",
    }
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    for rank in range(RANKS):
        mine = [line for line in lines if line.startswith(f"rank {rank} line ")]
        assert mine == [f"rank {rank} line {number}" for number in range(LINES)]
    assert sum(line.count("~") for line in lines) == RANKS * 25_000


@pytest.mark.parametrize("in_a_loop", [False, True])
@pytest.mark.parametrize("patient", [True, False])
def test_slow_server_gets_all_records_or_the_log_says_so(
    in_a_loop: bool, patient: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logs, "SEND_SECONDS", 120 if patient else 1)

    async def send_from_a_loop() -> None:
        logs.send_logs()

    taken: list[str] = []

    async def slowly(worker: APILogWorker, items: list[bytes]) -> None:
        await asyncio.sleep(6)  # Prefect's own flush waits for five
        taken.extend(json.loads(item)["message"] for item in items)

    monkeypatch.setattr(APILogWorker, "_handle_batch", slowly)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        APILogWorker.instance().send({"message": "late"})
        asyncio.run(send_from_a_loop()) if in_a_loop else logs.send_logs()
    assert ("late" in taken) == patient  # an earlier test's run may have had lines left to send
    assert ("its page lacks the last ones" in caplog.text) == (not patient)
