"""Temporary servers on the loopback interface, over the stores that runs write to.

They end with this process, however it ends.
"""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx

from components.records import ServiceFailed
from components.runtime.addresses import LOOPBACK, without_password
from components.runtime.children import server_process
from components.runtime.ports import free_port, holder
from flows.servers.key import PrefectApi, ensure_key, explaining_refusal, new_key, server_environment
from flows.servers.mlflow_app import check_password, mlflow_command, mlflow_environment, wants_sign_in
from flows.servers.prefect_app import prefect_command

STARTUP_SECONDS = 180
PREFECT_PORT, MLFLOW_PORT = "RATCHET_PREFECT_PORT", "RATCHET_MLFLOW_PORT"
"""Environment variables of the ports of servers that stay up; LABEL_PORT of the labelling page is a third one."""


class Server(NamedTuple):
    """A server of ours, and the open file of its output."""

    process: subprocess.Popen[str]
    output: IO[bytes]

    def cause(self) -> str:
        """Return the line of its output that says why it exited: the last error, else the last line."""
        self.output.seek(0)
        lines = [line.strip() for line in self.output.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        return (errors or lines or ["it printed nothing"])[-1]


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
    api = PrefectApi(f"http://{LOOPBACK}:{port}/api", key)
    with _server(prefect_command(port, log_level="error"), server_environment(port, key)) as server:
        meanwhile()
        wait_until_up(f"{api.url}/health", "Prefect", server=server)
        yield api


@contextlib.contextmanager
def pages(runs: Path, services: Path, *, prefect_port: int, mlflow_port: int) -> Iterator[Callable[[], None]]:
    """Start the Prefect and MLflow pages and yield, once they answer, a function that waits until one of them ends.

    Args:
        runs: Directory that holds the campaigns' directories.
        services: Directory of the pages' secrets.
        prefect_port: Port of the Prefect page.
        mlflow_port: Port of the MLflow page.

    Raises:
        ValueError: A port is taken, or MLFLOW_TRACKING_URI names a server, which has its own page.
    """
    from components.tracking import ensure_store, tracking_uri

    store, sign_in = tracking_uri(runs), wants_sign_in()
    if store.startswith("http"):
        raise ValueError(
            f"MLFLOW_TRACKING_URI = {without_password(store)} already is the address of MLflow's page: open it"
        )
    check_ports({PREFECT_PORT: prefect_port, MLFLOW_PORT: mlflow_port})
    ensure_store(runs)
    prefect = prefect_command(prefect_port, log_level="error"), server_environment(prefect_port, ensure_key(services))
    mlflow = (
        mlflow_command(mlflow_port, sign_in=sign_in),
        mlflow_environment(runs, services, store=store, port=mlflow_port, sign_in=sign_in),
    )
    with _server(*prefect) as prefect_page, _server(*mlflow) as mlflow_page:
        wait_until_up(f"http://{LOOPBACK}:{prefect_port}/api/health", "Prefect", server=prefect_page)
        wait_until_up(f"http://{LOOPBACK}:{mlflow_port}/health", "MLflow", server=mlflow_page)
        if sign_in:
            check_password(f"http://{LOOPBACK}:{mlflow_port}", services)

        def until_one_ends() -> None:
            while prefect_page.process.poll() is None and mlflow_page.process.poll() is None:
                time.sleep(0.5)

        yield until_one_ends


@contextlib.contextmanager
def _server(command: list[str], environment: Mapping[str, str]) -> Iterator[Server]:
    """Run a server within the block."""
    options = {"env": {**os.environ, **environment}, "stderr": subprocess.STDOUT}
    with tempfile.TemporaryFile() as output, server_process(command, stdout=output, **options) as process:
        yield Server(process, output)


def check_ports(ports: Mapping[str, int]) -> None:
    """Check that nothing speaks HTTP on the ports of our servers.

    Args:
        ports: Ports by the environment variables that set them.

    Raises:
        ValueError: Something does; the message names it if it is the user's own.
    """
    for variable, port in ports.items():
        if answers(port):
            used = f"is already in use by {by}" if (by := holder(port)) else "is already in use"
            raise ValueError(f"port {port} {used}: set {variable} to another port")


def answers(port: int) -> bool:
    """Return whether something speaks HTTP on a port of the loopback interface."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"http://{LOOPBACK}:{port}/", timeout=2, trust_env=False)
        return True
    return False


def wait_until_up(url: str, name: str, *, server: Server | None = None, log: Path | None = None) -> None:
    """Wait until a server's health page answers.

    Args:
        url: The health page.
        name: The server's name, for the error.
        server: The server, if it is a child of ours; the wait ends when it exits, and the error says why.
        log: File of the server's output, for the error.

    Raises:
        ServiceFailed: The server did not answer in time, or exited.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and (server is None or server.process.poll() is None):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.1)
    if server is not None and (code := server.process.poll()) is not None:
        raise ServiceFailed(f"the {name} server exited with code {code} before it answered at {url}: {server.cause()}")
    where = "" if log is None else f": see {log}"
    raise ServiceFailed(f"the {name} server did not answer at {url} within {STARTUP_SECONDS} s{where}")
