"""Shared by many tests: a quickly trained start model, and quiet, offline libraries."""

import os
import sys

# Models this small gain little from a second thread, and beside another busy process two threads are several times
# slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("MLFLOW_TRACKING_URI", None)

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from components.runtime.machine import keep_freed_memory
from tests.judges.chat_server import ChatServer, Fault, Script

keep_freed_memory()


@pytest.fixture(scope="session")
def starter_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model of the built-in world after a few steps: the real architecture and tokenizer, hardly trained."""
    from components.builtin.starter import build_starter

    directory = tmp_path_factory.mktemp("starter") / "model"
    build_starter(directory, steps=150)
    return directory


PYTHON_WITH_STAND_IN = """#!/bin/sh
script="$1"
exec {python} -c "
import runpy, sys
sys.path.insert(0, '{here}')
import vllm_stand_in
vllm_stand_in.install()
runpy.run_path('$script', run_name='__main__')
"
"""


@pytest.fixture
def stand_in_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `vllm` on the PATH whose Python has the stand-in of tests/generation/vllm_stand_in.py."""
    place = tmp_path / "vllm-environment" / "bin"
    place.mkdir(parents=True)
    python, command = place / "python", place / "vllm"
    python.write_text(PYTHON_WITH_STAND_IN.format(python=sys.executable, here=Path(__file__).parent / "generation"))
    command.write_text(f"#!{python}\n")
    for file in (python, command):
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChatServer]]:
    """Start chat endpoints that answer by a script, see tests/judges/chat_server.py; clients retry them at once."""
    from components.judges.chat import asking as retries

    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    servers: list[ChatServer] = []

    def start(script: Script = lambda request: "yes", faults: Sequence[Fault | None] = ()) -> ChatServer:
        servers.append(ChatServer(script, faults))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
