"""The background servers: Prefect, MLflow and a worker on this machine, under supervisord.

They listen on the loopback interface only. Their logs are in `runs/.services`; their databases are Prefect's own and
MLflow's store.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from components.artifacts import read_json, write_json
from components.campaign.state import RUNS_VARIABLE
from components.config.shipped import conf_path
from components.records import ServiceFailed
from flows.prefect_page.deployed import STORE_VARIABLE, WORKER_RUNS
from flows.servers.key import PrefectApi, ensure_key, key_file, read_key, server_environment
from flows.servers.temporary import STARTUP_SECONDS, answers, mlflow_environment, wait_until_up

STOP_SECONDS = 90
PREFECT_PORT, MLFLOW_PORT = "RATCHET_PREFECT_PORT", "RATCHET_MLFLOW_PORT"


@dataclass(frozen=True)
class Addresses:
    """Addresses of the running services."""

    prefect: str
    mlflow: str
    key: str | None = field(default=None, repr=False)
    """Key that Prefect requires; None if an earlier version started it."""

    @property
    def api(self) -> PrefectApi:
        """Prefect's API."""
        return PrefectApi(f"{self.prefect}/api", self.key)


def services_directory(runs: Path) -> Path:
    """Return the directory of the services' logs and process ids."""
    return runs / ".services"


def sign_in(runs: Path) -> Path:
    """Return the path of the file whose line signs in on the Prefect page."""
    return key_file(services_directory(runs))


def running(runs: Path) -> Addresses | None:
    """Return the addresses of the services over `runs`, or None if they are not up.

    Raises:
        ValueError: Their key cannot be used.
    """
    directory = services_directory(runs)
    if not (directory / "addresses.json").exists() or not _alive(directory):
        return None
    return Addresses(**read_json(directory / "addresses.json"), key=read_key(directory))


def chosen_api(runs: Path) -> PrefectApi:
    """Return the API that PREFECT_API_URL names (environment or profile), else the one of the services over `runs`.

    Raises:
        ValueError: Neither exists.
    """
    from prefect.settings import PREFECT_API_URL

    services = running(runs)
    configured = os.environ.get("PREFECT_API_URL") or PREFECT_API_URL.value()
    if services is not None and (not configured or services.api.is_at(configured)):
        return services.api
    if not configured:
        raise ValueError("no Prefect server is running: start one with `ratchet up`, or set PREFECT_API_URL")
    return PrefectApi(configured)


def become_worker(runs: Path) -> NoReturn:
    """Replace this process by a worker of the pool.

    Without a known server, Prefect would start a temporary one that nobody else finds.

    Raises:
        ValueError: No server is known.
    """
    from flows.prefect_page.deploy import POOL

    services, api = running(runs), chosen_api(runs)
    environment = {**os.environ, "DO_NOT_TRACK": "true", **api.environment(), RUNS_VARIABLE: str(runs)}
    if os.environ.get(RUNS_VARIABLE):
        environment[WORKER_RUNS] = str(runs)
    if services is not None and services.api == api:
        environment.setdefault(STORE_VARIABLE, services.mlflow)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"],
        environment,
    )


def start(runs: Path, *, prefect_port: int, mlflow_port: int) -> Addresses:
    """Start the services that are not up, wait until they answer, and return their addresses. Idempotent.

    Raises:
        ValueError: A port is taken by something else.
        ServiceFailed: A server did not answer; the message names its log.
    """
    from components.tracking import ensure_store, tracking_uri
    from flows.prefect_page.deploy import ensure_work_pool

    known = running(runs)
    if known is not None and known.key is None:
        raise ValueError(
            "the servers were started by an earlier version and do not require a key: "
            "restart them with `ratchet down` and `ratchet up`"
        )
    if known is not None:
        return known
    for variable, port in ((PREFECT_PORT, prefect_port), (MLFLOW_PORT, mlflow_port)):
        if answers(port):
            raise ValueError(f"port {port} is already in use: set {variable} to another port")
    store = tracking_uri(runs)
    if store.startswith("http"):
        raise ValueError(f"MLFLOW_TRACKING_URI = {store}: unset it, because this command starts its own MLflow server")
    ensure_store(runs)
    directory = services_directory(runs)
    key = ensure_key(directory)
    addresses = Addresses(f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}", key)
    environment = {
        **os.environ,
        **_places(runs),
        RUNS_VARIABLE: str(runs),
        WORKER_RUNS: str(runs),
        "RATCHET_MLFLOW_STORE": store,
        PREFECT_PORT: str(prefect_port),
        MLFLOW_PORT: str(mlflow_port),
        STORE_VARIABLE: addresses.mlflow,
        **server_environment(prefect_port, key),
        **mlflow_environment(runs),
    }
    _start_supervisord(environment, log=directory / "supervisord.log")
    try:
        wait_until_up(f"{addresses.api.url}/health", "Prefect", log=directory / "prefect.log")
        ensure_work_pool(addresses.api)
        _control(environment, "start", "worker")
        wait_until_up(f"{addresses.mlflow}/health", "MLflow", log=directory / "mlflow.log")
        _wait_for_worker(addresses.api, directory / "worker.log")
    except BaseException:
        stop(runs)
        raise
    write_json(directory / "addresses.json", {"prefect": addresses.prefect, "mlflow": addresses.mlflow})
    return addresses


def stop(runs: Path) -> bool:
    """Stop the services and the worker's flow runs, and return whether they were up.

    Raises:
        ServiceFailed: They did not stop.
    """
    directory = services_directory(runs)
    if not _alive(directory):
        return False
    pid = _pid(directory)
    _control({**os.environ, **_places(runs)}, "shutdown")
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(directory) and time.monotonic() < deadline:
        time.sleep(0.2)
    if _alive(directory):
        raise ServiceFailed(
            f"supervisord (pid {pid}) did not stop within {STOP_SECONDS} s: see {directory / 'supervisord.log'}"
        )
    (directory / "addresses.json").unlink(missing_ok=True)
    return True


def _start_supervisord(environment: Mapping[str, str], *, log: Path) -> None:
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", _configuration()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        cause = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServiceFailed(f"supervisord did not start ({cause}): see {log}, then run `ratchet up` again")


def _wait_for_worker(api: PrefectApi, log: Path) -> None:
    from flows.prefect_page.deploy import worker_is_online

    deadline = time.monotonic() + STARTUP_SECONDS
    while not worker_is_online(api):
        if time.monotonic() > deadline:
            raise ServiceFailed(f"the worker did not come online within {STARTUP_SECONDS} s: see {log}")
        time.sleep(0.5)


def _configuration() -> str:
    return str(conf_path("supervisord.conf"))


def _places(runs: Path) -> dict[str, str]:
    # A socket's path may have 107 bytes at most, so the socket is not in the runs directory.
    name = hashlib.sha256(str(runs.resolve()).encode()).hexdigest()[:16]
    socket = Path(tempfile.gettempdir()) / f"ratchet-{os.getuid()}-{name}.sock"
    return {
        "RATCHET_SERVICES": str(services_directory(runs)),
        "RATCHET_SOCKET": str(socket),
        "RATCHET_PYTHON": sys.executable,
    }


def _control(environment: Mapping[str, str], *command: str) -> None:
    control = [sys.executable, "-m", "supervisor.supervisorctl", "-c", _configuration(), *command]
    # supervisorctl parses the whole configuration file, so every variable in it must be set.
    unused = dict.fromkeys((PREFECT_PORT, MLFLOW_PORT, "RATCHET_MLFLOW_STORE"), "0")
    done = subprocess.run(control, env={**unused, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServiceFailed(
            f"supervisorctl {' '.join(command)} failed: {' '.join((done.stdout + done.stderr).split())}"
        )


def _pid(directory: Path) -> int | None:
    try:
        return int((directory / "supervisord.pid").read_text())
    except (FileNotFoundError, ValueError):
        return None


def _alive(directory: Path) -> bool:
    pid = _pid(directory)
    try:
        return pid is not None and b"supervisord" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False
