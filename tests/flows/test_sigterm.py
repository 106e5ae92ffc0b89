"""A command that is asked to end says so in one line, at any moment of its life."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_command_that_is_asked_to_end_says_so_and_ends_with_143(tmp_path: Path) -> None:
    """The kernel drops SIGTERM for the first process of a container unless it has a handler."""
    ready = tmp_path / "ready"
    code = f"import flows.cli, pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(120)"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 143
    assert errors == "ratchet: ended by SIGTERM; run the same command again to continue\n"
