"""Behind a proxy that refuses everything, as a company's does with loopback: our servers are reached directly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.servers.attacks import SECRET
from tests.proxy import counting_proxy

ROOT = Path(__file__).parents[3]
# What a command does with its servers: starts one, asks its API, follows its WebSocket, and asks MLflow.
COMMAND = """
import http.server, os, threading
from components.runtime.addresses import keep_loopback_off_proxies
keep_loopback_off_proxies()
from prefect.blocks.system import Secret
from prefect.events import emit_event
from prefect.events.clients import get_events_client
from flows.servers.temporary import answers, prefect_server
from components.tracking.store import connected
from pathlib import Path

class Tracking(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200); self.send_header("Content-Type", "application/json"); self.end_headers()
        self.wfile.write(b"{}")
    do_GET = do_POST
    def log_message(self, *_): pass

import asyncio
from prefect.events import Event

async def follow():
    async with get_events_client() as client:
        await client.emit(Event(event="test", resource={"prefect.resource.id": "test"}))

with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tracking) as server, prefect_server():
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert answers(server.server_port)
    Secret(value="sk-judge-0123456789").save("judge", overwrite=True)
    print(Secret.load("judge").get())
    asyncio.run(follow())
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.server_port}"
    with connected(Path("unused")) as client:
        print(len(client.search_experiments(max_results=1)), "experiments")
    server.shutdown()
"""


@pytest.mark.parametrize("listed", [{}, {"no_proxy": "intranet.example"}])
def test_servers_of_a_command_are_reached_without_the_proxy(listed: dict[str, str], tmp_path: Path) -> None:
    with counting_proxy(403, b"no") as proxy:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        own = {"PREFECT_HOME": str(tmp_path / "prefect"), "RATCHET_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND],
            env={**kept, **own, **proxy.environment(), **listed},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [SECRET, "0", "experiments"]
    assert proxy.asked == []
