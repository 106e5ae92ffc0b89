"""The errors of servers that cannot be started, or deployed to.

The servers themselves run in tests/e2e.
"""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from typer.testing import CliRunner

from components.runtime.ports import free_port
from flows import doctor
from flows.cli import app
from flows.servers.supervisord import Supervisord
from flows.terminal.rounds import print_places


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
    holder = f"pid {os.getpid()} ({psutil.Process().name()})"
    assert f"port {taken} is already in use by {holder}: set RATCHET_PREFECT_PORT to another port" in told.output
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


@pytest.mark.parametrize("command", ["up", "ui"])
def test_tracking_server_of_others_is_named_without_its_password(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:s3cret@tracking.example:5000")
    told = CliRunner().invoke(app, [command, "--prefect-port", str(free_port()), "--mlflow-port", str(free_port())])
    assert told.exit_code == 2
    assert "MLFLOW_TRACKING_URI = http://tracking.example:5000" in told.output
    assert "s3cret" not in told.output


def test_places_and_doctor_show_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://alice:s3cret@db.example/mlflow")
    monkeypatch.setenv("PREFECT_API_URL", "http://alice:s3cret@prefect.example/api")
    console = Console(file=io.StringIO(), record=True, width=200)
    print_places(console, tmp_path / "runs" / "demo")
    shown = console.export_text() + doctor._stores(tmp_path / "runs").detail
    assert shown.count("postgresql://db.example/mlflow") == 2
    assert "http://prefect.example/api" in shown
    assert "s3cret" not in shown


def test_mlflow_sign_in_that_is_neither_true_nor_false_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_MLFLOW_SIGN_IN", "perhaps")
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    told = CliRunner().invoke(app, ["up", *ports])
    assert told.exit_code == 2
    assert "RATCHET_MLFLOW_SIGN_IN = perhaps must be true or false" in told.output


@pytest.mark.parametrize(("mine", "name"), [(True, "supervisord"), (False, "supervisord"), (True, "other")])
def test_supervisord_of_a_stale_process_id_is_not_ours(mine: bool, name: str, tmp_path: Path) -> None:
    # A recycled id: `down` would end whatever has it now.
    directory = tmp_path / "a runs" / ".services"
    directory.mkdir(parents=True)
    environment = {"RATCHET_SERVICES": str(directory if mine else tmp_path)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", name], env=environment) as process:
        (directory / "supervisord.pid").write_text(f"{process.pid}\n")
        wait_for_arguments(process.pid, name)
        assert Supervisord(directory).pid() == (process.pid if mine and name == "supervisord" else None)
        process.kill()
    assert Supervisord(directory).pid() is None


def wait_for_arguments(pid: int, last: str) -> None:
    """Wait until a process has become its command."""
    deadline = time.monotonic() + 20
    while not Path(f"/proc/{pid}/cmdline").read_bytes().endswith(f"{last}\0".encode()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
