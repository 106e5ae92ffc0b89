"""The labelling server in a process of its own, and annotators who talk to it by HTTP."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from components.labelling.database import opened
from components.labelling.invitations import invite
from components.runtime.ports import free_port

ROOT = Path(__file__).parents[2]
SITUATION = re.compile(r'id="situation" data-state="(\w+)" data-note="([^"]*)" data-task="([^"]*)" data-item="([^"]*)"')


@dataclass
class LabelServer:
    """The server as `ratchet label` starts it, over one directory of runs."""

    runs: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *options: str) -> dict[str, Any]:
        """Return what `subprocess` needs for the command as a user types it."""
        command = [sys.executable, "-m", "flows.cli", "label", "demo", *options]
        return {"args": command, "env": {**os.environ, "RATCHET_RUNS": str(self.runs), "PYTHONPATH": str(ROOT)}}

    def ratchet(self, *options: str) -> str:
        return subprocess.run(**self.command(*options), check=True, capture_output=True, text=True).stdout

    def start(self) -> None:
        self.process = subprocess.Popen(**self.command("--port", str(self.port)), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz", trust_env=False).is_success:
                    return
            time.sleep(0.1)
        raise AssertionError(f"the server did not start: {self.process.poll()}")

    def kill(self) -> None:
        """End the server as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def link(self, name: str, *, days: float = 7) -> str:
        with opened(self.runs / "demo") as database:
            token = invite(database, name, days=days, now=datetime.now(UTC))
        return f"{self.url}/join/demo.{token}"


@contextlib.contextmanager
def label_server(runs: Path) -> Iterator[LabelServer]:
    server = LabelServer(runs)
    server.start()
    try:
        yield server
    finally:
        assert server.process is not None
        server.process.terminate()
        server.process.wait()


@dataclass
class Person:
    """An annotator's browser, without the browser."""

    client: Any
    """A client of httpx or Starlette whose base is the server's address."""
    campaign: str = "demo"
    csrf: str = ""
    state: str = ""
    note: str = ""
    task: str = ""
    item: str = ""

    def join(self, link: str) -> None:
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.client.get(link).text)
        assert csrf is not None
        answer = self.client.post(link, data={"csrf": csrf[1]}, follow_redirects=True)
        assert answer.status_code == 200, answer.text
        token = re.search(r'name="csrf" content="([^"]+)"', answer.text)
        assert token is not None
        self.csrf = token[1]
        self.read(answer)

    def read(self, answer: Any) -> None:
        assert answer.status_code == 200, answer.text
        found = SITUATION.search(answer.text)
        assert found is not None, answer.text
        self.state, self.note, self.task, self.item = found.groups()

    def post(self, path: str, body: dict[str, Any], **headers: str) -> Any:
        return self.client.post(f"/c/{self.campaign}/{path}", json=body, headers={"x-csrf-token": self.csrf, **headers})

    def ballot(self, choice: str = "left") -> dict[str, Any]:
        return {
            "vote_id": str(uuid4()),
            "task": self.task,
            "item_id": self.item,
            "choice": choice,
            "seconds": 1.0,
            "flag": None,
        }

    def vote(self, choice: str = "left") -> None:
        self.read(self.post("vote", self.ballot(choice)))
