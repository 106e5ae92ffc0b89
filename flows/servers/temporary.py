"""Temporary servers on the loopback interface, over the stores that runs write to.

They end with this process, however it ends.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from components.records import ServiceFailed
from components.runtime.children import server_process
from components.runtime.ports import free_port
from flows.servers.key import PrefectApi, ensure_key, explaining_refusal, new_key, server_environment

STARTUP_SECONDS = 180
LIGHT_MLFLOW = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Environment of an MLflow server without the half dozen processes for jobs of its GenAI pages, which we do not use."""


def mlflow_environment(runs: Path) -> dict[str, str]:
    """Return the environment of an MLflow server over a directory of campaigns.

    The server names files by their own address, so that they are found without it too. It also serves those of
    experiments that an earlier version made, which name the server.
    """
    from components.tracking import artifact_root

    root = artifact_root(runs)
    return LIGHT_MLFLOW | {"MLFLOW_DEFAULT_ARTIFACT_ROOT": root, "MLFLOW_ARTIFACTS_DESTINATION": root}


@contextlib.contextmanager
def prefect_server(known: PrefectApi | None = None, *, meanwhile: Callable[[], object] = lambda: None) -> Iterator[str]:
    """Provide a Prefect API for flows within the block, and yield its address.

    A configured PREFECT_API_URL (environment or profile) comes first, then the known server. Otherwise a server is
    started on a free port; Prefect's own temporary server would outlive a killed parent.

    Args:
        known: A server that is up, if there is one.
        meanwhile: Called while our own server starts, which takes seconds.
    """
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.prefect_page.logs import send_logs

    configured = PREFECT_API_URL.value()
    if configured and not (known and known.is_at(configured)):
        with explaining_refusal(configured):
            yield configured
        return
    # Our own server has no automation that watches heartbeats, and every flow would wait up to a second for their
    # thread.
    own: dict[Any, Any] = {} if known else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with (
        contextlib.nullcontext(known) if known else _own_server(meanwhile) as api,
        temporary_settings(api.settings() | own),
    ):
        try:
            yield api.url
        finally:
            send_logs()


@contextlib.contextmanager
def _own_server(meanwhile: Callable[[], object]) -> Iterator[PrefectApi]:
    port, key = free_port(), new_key()
    api = PrefectApi(f"http://127.0.0.1:{port}/api", key)
    with _prefect(port, key) as server:
        meanwhile()
        wait_until_up(f"{api.url}/health", "Prefect", child=server)
        yield api


@contextlib.contextmanager
def pages(runs: Path, services: Path, *, prefect_port: int, mlflow_port: int) -> Iterator[Callable[[], None]]:
    """Start the Prefect and MLflow pages and yield, once they answer, a function that waits until one of them ends.

    Args:
        runs: Directory that holds the campaigns' directories.
        services: Directory of the Prefect page's key.
        prefect_port: Port of the Prefect page.
        mlflow_port: Port of the MLflow page.

    Raises:
        ValueError: A port is taken, or MLFLOW_TRACKING_URI names a server, which has its own page.
    """
    from components.tracking import ensure_store, tracking_uri

    store = tracking_uri(runs)
    if store.startswith("http"):
        raise ValueError(f"MLFLOW_TRACKING_URI = {store} already is the address of MLflow's page: open it")
    for name, port in (("RATCHET_PREFECT_PORT", prefect_port), ("RATCHET_MLFLOW_PORT", mlflow_port)):
        if answers(port):
            raise ValueError(f"port {port} is already in use: set {name} to another port")
    ensure_store(runs)
    mlflow = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--host",
        "127.0.0.1",
        "--port",
        str(mlflow_port),
    ]
    with (
        _prefect(prefect_port, ensure_key(services)) as prefect_child,
        server_process(mlflow, env=os.environ | mlflow_environment(runs)) as mlflow_child,
    ):
        wait_until_up(f"http://127.0.0.1:{prefect_port}/api/health", "Prefect", child=prefect_child)
        wait_until_up(f"http://127.0.0.1:{mlflow_port}/health", "MLflow", child=mlflow_child)

        def until_one_ends() -> None:
            while prefect_child.poll() is None and mlflow_child.poll() is None:
                time.sleep(0.5)

        yield until_one_ends


@contextlib.contextmanager
def _prefect(port: int, key: str) -> Iterator[subprocess.Popen[str]]:
    application = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "prefect.server.api.server:create_app",
        "--lifespan",
        "on",
    ]
    address = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    with server_process([*application, *address], env=os.environ | server_environment(port, key)) as child:
        yield child


def answers(port: int) -> bool:
    """Return whether something speaks HTTP on a port of the loopback interface."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/", timeout=2)
        return True
    return False


def wait_until_up(url: str, name: str, *, child: subprocess.Popen[str] | None = None, log: Path | None = None) -> None:
    """Wait until a server's health page answers.

    Args:
        url: The health page.
        name: The server's name, for the error.
        child: The server's process, if we know it; the wait ends when it exits.
        log: File of the server's output, for the error.

    Raises:
        ServiceFailed: The server did not answer in time, or exited.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and (child is None or child.poll() is None):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.1)
    where = "" if log is None else f": see {log}"
    if child is not None and child.poll() is not None:
        raise ServiceFailed(f"the {name} server exited with code {child.poll()} before it answered at {url}{where}")
    raise ServiceFailed(f"the {name} server did not answer at {url} within {STARTUP_SECONDS} s{where}")
