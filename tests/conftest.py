"""What many tests stand on: a quickly trained start model, and quiet, offline libraries."""

import os

# Models this small gain little from a second thread, and beside another busy process two threads are several times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("MLFLOW_TRACKING_URI", None)

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from components.launch import keep_freed_memory
from tests.judges.chat_server import ChatServer, Fault, Script

keep_freed_memory()


@pytest.fixture(scope="session")
def starter_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model of the built-in world after a few steps: the real architecture and tokenizer, hardly trained."""
    from components.builtin.starter import build_starter

    directory = tmp_path_factory.mktemp("starter") / "model"
    build_starter(directory, steps=150)
    return directory


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ChatServer]]:
    """Starts chat endpoints that answer by a script; see tests/judges/chat_server.py. Whoever asks them retries without delay."""
    from components.judges.chat import retries

    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    servers: list[ChatServer] = []

    def start(script: Script = lambda request: "yes", faults: Sequence[Fault | None] = ()) -> ChatServer:
        servers.append(ChatServer(script, faults))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
