"""A campaign of the built-in world that learns from noisy thumbs of its users, as docs/feedback.md shows it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.runtime.ports import free_port
from tests.docs.pages import blocks
from tests.feedback.simulated_users import rate

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
USERS, NOISE = 200, 0.2


def ratchet(runs: Path, *arguments: str) -> str:
    """Run a command as a user would and return its output."""
    environment = {**os.environ, "RATCHET_RUNS": str(runs), "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=runs.parent, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextlib.contextmanager
def served(runs: Path, port: int) -> Iterator[None]:
    environment = {**os.environ, "RATCHET_RUNS": str(runs), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.cli", "serve", "thumbs", "--engine", "transformers", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=runs.parent, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert any(line.startswith("Ctrl-C") for line in child.stdout), "the server did not start"
            yield
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(30)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration that docs/feedback.md shows."""
    (text,) = (
        block.text
        for block in blocks(ROOT / "docs" / "feedback.md")
        if block.language == "yaml" and "campaign: thumbs" in block.text
    )
    (tmp_path / "thumbs.yaml").write_text(text)
    return tmp_path / "thumbs.yaml"


def test_thumbs_of_users_who_err_promote_a_better_model(config: Path, tmp_path: Path) -> None:
    runs, port = tmp_path / "runs", free_port()
    assert "ratchet: skipped: round 1 of thumbs is not begun: 0 usable thumbs" in ratchet(runs, "run", str(config))
    with served(runs, port):
        key = (runs / "thumbs" / ".serving" / "key").read_text().strip()
        counts = rate(f"http://127.0.0.1:{port}", key, users=USERS, noise=NOISE, seed=1, model="thumbs")
    assert counts["up"] + counts["down"] == counts["served"] > 190
    assert 20 < counts["flipped"] < 60
    told = ratchet(runs, "run", str(config))
    state = json.loads((runs / "thumbs" / "campaign.json").read_text())
    (record,) = state["rounds"]
    assert record["promoted"], told
    assert record["win_rate_vs_start"]["low"] > 0.5
    assert state["champion"]["round"] == 1
    assert "skipped: round 2 of thumbs is not begun: 0 usable thumbs" in ratchet(runs, "run", str(config))
    shown = ratchet(runs, "feedback", "thumbs")
    assert re.search(rf"the start model +{counts['up']} +{counts['down']} +0", shown), shown
    assert "0 unused by any round" in shown
