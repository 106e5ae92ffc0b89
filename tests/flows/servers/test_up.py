"""`ratchet up` as a user types it, in a folder with a space and an apostrophe: its doors, and what ends by itself."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from components.labelling.task import read_votes, write_task
from components.runtime.ports import free_port
from flows.servers.addresses import Addresses, running
from flows.servers.supervisord import Supervisord
from tests.flows.servers.attacks import FOREIGN, FOREIGN_HOSTS, SECONDS, assert_every_route_is_locked
from tests.labelling.tasks import make_task

pytestmark = pytest.mark.timeout(900)  # the first start of three servers, on a machine that tests keep busy
ROOT = Path(__file__).parents[3]
UMASK = 0o027
OPEN = ("/health", "/static-files", "/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info")
"""MLflow's health, the parts of its page, and its description of itself need no password."""


@dataclass
class Machine:
    """A directory of runs, and the environment of its user."""

    place: Path
    environment: dict[str, str]
    printed: str = ""
    """What `ratchet up` printed."""

    @property
    def runs(self) -> Path:
        return self.place / "runs"

    @property
    def services(self) -> Path:
        return self.runs / ".services"

    @property
    def addresses(self) -> Addresses:
        known = running(self.runs)
        assert known is not None
        return known

    def ratchet(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run a command and return its output."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        environment = {**self.environment, **variables}
        done = subprocess.run(
            command,
            env=environment,
            cwd=self.place,
            umask=UMASK,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def processes(self, *words: str) -> list[psutil.Process]:
        """Return the processes of these runs whose command line has all the words."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                line = process.cmdline()
                if process.environ().get("RATCHET_RUNS") == str(self.runs) and all(word in line for word in words):
                    found.append(process)
        return found


def wait_until(true: Callable[[], object], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def new_machine(place: Path, **variables: str) -> Machine:
    place.mkdir(parents=True)
    light = {"MLFLOW_WORKERS": "1"}
    ports = {f"RATCHET_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "LABEL")}
    places = {"RATCHET_RUNS": str(place / "runs"), "PREFECT_HOME": str(place / "prefect"), "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return Machine(place, {**kept, **light, **ports, **places, **variables})


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Servers that were started again after a first start was killed while it waited for them."""
    machine = new_machine(
        tmp_path_factory.mktemp("up") / f"the team's place {'x' * 40}",
        RATCHET_MLFLOW_SIGN_IN="true",
        MLFLOW_SERVER_CORS_ALLOWED_ORIGINS="*",
    )
    command = [sys.executable, "-m", "flows.cli", "up"]
    try:
        with subprocess.Popen(command, env=machine.environment, cwd=machine.place, stdout=subprocess.DEVNULL) as killed:
            wait_until(lambda: Supervisord(machine.services).pid(), "supervisord")
            killed.kill()
        machine.printed = machine.ratchet("up")
        yield machine
        socket = Supervisord(machine.services)._socket
        assert len(str(socket)) < 90 < len(str(machine.services / socket.name))
        assert (socket.parent.stat().st_mode & 0o777, socket.stat().st_mode & 0o777) == (0o700, 0o600)
    finally:
        machine.ratchet("down", TMPDIR=str(tmp_path_factory.mktemp("another")))
    wait_until(lambda: not machine.processes(), "every process to end")
    assert not socket.parent.exists()


def test_up_prefect_is_locked_on_every_route(machine: Machine) -> None:
    addresses = machine.addresses
    assert addresses.key is not None
    assert_every_route_is_locked(addresses.api.url, addresses.key)


def test_up_prints_how_to_sign_in_and_no_secret_is_printed_or_in_a_command_line(machine: Machine) -> None:
    addresses = machine.addresses
    assert addresses.key is not None
    assert addresses.mlflow_password is not None
    printed = machine.printed
    for command in (line.partition(": ")[2] for line in printed.splitlines() if "prints: cat" in line):
        shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.strip()
        assert shown in (addresses.key, addresses.mlflow_password)
        assert shown not in printed
    assert printed.count("prints: cat") == 2
    assert len(addresses.mlflow_password) >= 43  # 256 bits
    secrets = [addresses.key.removeprefix("admin:"), addresses.mlflow_password, "mlflow.db"]
    lines = [" ".join(process.cmdline()) for process in machine.processes()]
    assert len(lines) >= 5  # supervisord, Prefect, MLflow and its worker, our worker
    assert not [line for line in lines for secret in secrets if secret in line]
    files = [path for path in machine.place.rglob("*") if path.is_file()]
    holders = [path for path in files if addresses.mlflow_password.encode() in path.read_bytes()]
    assert holders == [machine.services / "mlflow-password"]
    for name in ("mlflow-password", "mlflow-users.db", "prefect-key"):
        assert (machine.services / name).stat().st_mode & 0o777 == 0o600, name


ROUTES = """
import json
from mlflow.server import app
from mlflow.server.fastapi_app import create_fastapi_app
routes = [(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods]
description = create_fastapi_app(app).openapi()["paths"]
routes += [(method.upper(), path) for path, methods in description.items() for method in methods]
print(json.dumps([(method, path) for method, path in routes if method != "OPTIONS"]))
"""


def mlflow_routes() -> list[tuple[str, str]]:
    """Return method and path of every route of MLflow's server."""
    command = [sys.executable, "-W", "ignore", "-c", ROUTES]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(method, re.sub(r"<[^>]*>|\{[^}]*\}", "1", path)) for method, path in json.loads(printed.splitlines()[-1])]


def test_up_mlflow_with_sign_in_answers_nobody_without_the_password(machine: Machine) -> None:
    address = machine.addresses.mlflow
    routes = mlflow_routes()
    assert len(routes) > 150
    answered = []
    with httpx.Client(timeout=SECONDS) as client:
        for method, path in routes:
            code = client.request(method, f"{address}{path}", json={} if method != "GET" else None).status_code
            if not path.startswith(OPEN) and code != 401:
                answered.append((method, path, code))
    assert not answered
    assert httpx.get(f"{address}/version", auth=("admin", "password1234"), timeout=SECONDS).status_code == 401


def test_up_mlflow_refuses_other_hosts_and_pages_of_other_origins(machine: Machine) -> None:
    addresses = machine.addresses
    assert addresses.mlflow_password is not None
    auth, port = ("admin", addresses.mlflow_password), httpx.URL(addresses.mlflow).port
    search = f"{addresses.mlflow}/api/2.0/mlflow/experiments/search"
    body = {"max_results": 1}
    with httpx.Client(auth=auth, timeout=SECONDS) as client:
        assert client.post(search, json=body).status_code == 200
        # MLflow's own default lets in a name that begins like a private address.
        for host in (*FOREIGN_HOSTS, "10.evil.example", "192.168.evil.example"):
            foreign = {"Host": host.format(port=port)}
            assert client.get(f"{addresses.mlflow}/", headers=foreign).status_code == 403, host
            assert client.post(search, json=body, headers=foreign).status_code == 403, host
        assert client.post(search, json=body, headers={"Origin": FOREIGN}).status_code == 403


def test_up_mlflow_keeps_weights_beside_the_runs_and_signs_in_our_own_client(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    for name, value in machine.addresses.mlflow_environment().items():
        monkeypatch.setenv(name, value)
    client = MlflowClient()
    run = client.create_run(client.create_experiment("weights"))
    (tmp_path / "weights.bin").write_bytes(b"weights")
    client.log_artifact(run.info.run_id, str(tmp_path / "weights.bin"))
    kept = list(machine.place.rglob("weights.bin"))
    assert [path.read_bytes() for path in kept] == [b"weights"]
    assert kept[0].is_relative_to(machine.runs / "mlartifacts")
    (worker,) = machine.processes("worker", "start")
    assert f"Umask:\t{UMASK:04o}" in Path(f"/proc/{worker.pid}/status").read_text()
    assert worker.environ()["MLFLOW_TRACKING_PASSWORD"] == machine.addresses.mlflow_password
    assert worker.environ()["MLFLOW_TRACKING_URI"] == machine.addresses.mlflow


def test_up_serves_the_labelling_page_and_label_names_it(machine: Machine) -> None:
    page = machine.addresses.labelling
    assert page is not None
    assert page in machine.printed
    assert httpx.get(f"{page}/healthz", timeout=SECONDS).text == "ok\n"
    for host in FOREIGN_HOSTS:
        asked = {"host": host.format(port=page.rpartition(":")[2])}
        assert httpx.get(f"{page}/healthz", headers=asked, timeout=SECONDS).status_code == 421, host
    overdue = make_task(num_items=1, deadline="2026-01-01T00:00:00+00:00")
    directory = write_task(machine.runs / "labelled", overdue)
    wait_until(lambda: read_votes(directory) is not None, "the votes of a task whose deadline has passed")
    link = machine.ratchet("label", "labelled", "--invite", "ann").splitlines()[0]
    assert link.startswith(f"{page}/join/labelled.")
    assert httpx.get(link, timeout=SECONDS).status_code == 200
    assert page in machine.ratchet("label", "labelled")


def test_up_worker_that_ends_is_started_again(machine: Machine) -> None:
    (worker,) = machine.processes("worker", "start")
    worker.terminate()
    worker.wait(40)
    wait_until(lambda: machine.processes("worker", "start"), "a new worker")
    assert machine.processes("worker", "start")[0].pid != worker.pid
    # By default, supervisord takes 0 for a wish to end.
    assert "exited: worker (exit status 0" in (machine.services / "supervisord.log").read_text()


def test_up_again_starts_what_has_ended_for_good(machine: Machine) -> None:
    supervisord = Supervisord(machine.services)
    before = supervisord.pid()
    for name in ("mlflow", "labelling", "worker"):
        supervisord._control("stop", name)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{machine.addresses.mlflow}/health")
    printed = machine.ratchet("up")
    assert machine.addresses.mlflow in printed
    assert httpx.get(f"{machine.addresses.mlflow}/health", timeout=SECONDS).status_code == 200
    assert httpx.get(f"{machine.addresses.labelling}/healthz", timeout=SECONDS).status_code == 200
    assert machine.processes("worker", "start")
    assert supervisord.pid() == before


def test_up_only_a_worker_serves_servers_of_others(machine: Machine, tmp_path: Path) -> None:
    addresses = machine.addresses
    assert addresses.key is not None
    theirs = {
        "PREFECT_API_URL": addresses.api.url,
        "PREFECT_API_AUTH_STRING": addresses.key,
        **addresses.mlflow_environment(),
    }
    other = new_machine(tmp_path / "other", **theirs)
    refused = other.ratchet("up", "--only", "worker", code=2, PREFECT_API_AUTH_STRING="admin:guessed")
    assert "refuses access" in refused
    printed = other.ratchet("up", "--only", "worker")
    try:
        assert addresses.prefect in printed
        (worker,) = other.processes("worker", "start")
        assert worker.environ()["PREFECT_API_URL"] == addresses.api.url
        assert not other.processes("uvicorn")
        assert running(other.runs) is None
        assert "run `ratchet down` first" in other.ratchet("up", code=2, MLFLOW_TRACKING_URI="")
        other.ratchet("up", "--only", "worker")  # again
        assert [process.pid for process in other.processes("worker", "start")] == [worker.pid]
    finally:
        assert "ended" in other.ratchet("down")
    wait_until(lambda: not other.processes(), "the worker to end")


def test_up_only_a_worker_without_a_server_is_refused(tmp_path: Path) -> None:
    machine = new_machine(tmp_path / "alone")
    assert "no Prefect server is running" in machine.ratchet("up", "--only", "worker", code=2)
    unreachable = {"PREFECT_API_URL": f"http://ann:s3cret@127.0.0.1:{free_port()}/api"}
    printed = machine.ratchet("up", "--only", "worker", code=1, **unreachable)
    assert "cannot be reached" in printed
    assert "s3cret" not in printed
    assert not machine.processes()
