"""The errors of servers that cannot be started, or deployed to.

The servers themselves run in tests/e2e.
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.testing import CliRunner

from components.runtime.ports import free_port
from flows.cli import app


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # the server of other tests in this process
        yield


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something else answers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_up_port_that_something_else_has_is_named(taken: int, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["up", "--prefect-port", str(taken)])
    assert told.exit_code == 2
    assert f"port {taken} is already in use: set RATCHET_PREFECT_PORT to another port" in told.output
    assert not (tmp_path / "runs" / ".services").exists()


def test_down_when_nothing_is_up_says_so() -> None:
    told = CliRunner().invoke(app, ["down"])
    assert (told.exit_code, told.output.strip()) == (0, "nothing is up")


@pytest.mark.parametrize("command", ["deploy", "worker"])
def test_command_that_needs_a_server_says_how_to_get_one(command: str) -> None:
    told = CliRunner().invoke(app, [command])
    assert told.exit_code == 2
    assert "no Prefect server is running: start one with `ratchet up`, or set PREFECT_API_URL" in told.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("deployments: [", "is not valid YAML"),
        ("name: x", "does not define any deployments: start from a copy of conf/prefect.yaml"),
        (
            "deployments: [{name: a}]",
            "definitions.concurrency_limit = None must be a whole number of at least 1",
        ),
        ("deployments: [{name: a}]\ndefinitions: {concurrency_limit: 0}", "definitions.concurrency_limit = 0"),
        (None, "cannot be read"),
    ],
)
def test_deploy_file_that_cannot_be_used_is_told_in_one_line(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    if content is not None:
        (tmp_path / "prefect.yaml").write_text(content)
    told = CliRunner().invoke(app, ["deploy", "--file", str(tmp_path / "prefect.yaml")])
    assert told.exit_code == 2
    assert message in " ".join(told.output.split())


def test_up_supervisord_that_does_not_start_is_named_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "runs" / ".services" / "supervisord.log").mkdir(parents=True)
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    told = CliRunner().invoke(app, ["up", *ports])
    assert told.exit_code == 1, told.output
    assert told.stderr.startswith("ratchet: supervisord did not start (")
    assert "supervisord.log" in told.stderr
    assert told.stderr.count("\n") == 1
