"""Workers of the pool: one in the foreground, and one that supervisord keeps."""

import os
import platform
import sys
import time
from pathlib import Path
from typing import NoReturn

from components.campaign.state import RUNS_VARIABLE
from components.records import ServiceFailed
from components.runtime.addresses import without_password
from flows.prefect_page.deployed import STORE_VARIABLE, WORKER_RUNS
from flows.servers.addresses import chosen_api, read_known, running, services_directory, write_known
from flows.servers.key import PrefectApi, ensure_private
from flows.servers.supervisord import Supervisord
from flows.servers.temporary import STARTUP_SECONDS


def become_worker(runs: Path) -> NoReturn:
    """Replace this process by a worker of the pool.

    Without a known server, Prefect would start a temporary one that nobody else finds.

    Raises:
        ValueError: No server is known.
    """
    services, api = running(runs), chosen_api(runs)
    environment = {**os.environ, "DO_NOT_TRACK": "true", **api.environment(), RUNS_VARIABLE: str(runs)}
    if os.environ.get(RUNS_VARIABLE):
        environment[WORKER_RUNS] = str(runs)
    if services is not None and services.api == api and not os.environ.get(STORE_VARIABLE):
        environment |= services.mlflow_environment()
    os.execve(sys.executable, worker_command(), environment)


def start_worker(runs: Path) -> PrefectApi:
    """Start a worker in the background for the servers of PREFECT_API_URL and MLFLOW_TRACKING_URI. Idempotent.

    Raises:
        ValueError: PREFECT_API_URL is not set, or `ratchet up` has started servers here.
        ServiceFailed: The server cannot be reached, or the worker does not come online.
    """
    from flows.prefect_page.deploy import ensure_work_pool

    directory = services_directory(runs)
    supervisord = Supervisord(directory)
    if running(runs) is not None:
        raise ValueError("`ratchet up` has started servers and a worker here: run `ratchet down` first")
    api = chosen_api(runs)
    ensure_work_pool(api)
    ensure_private(directory)
    with supervisord.one_start():
        known = read_known(directory)
        if known is None:
            supervisord.stop()  # a start that was killed
            environment = {**os.environ, **worker_environment(runs), **api.environment()}
            supervisord.start({"worker": kept_worker_command()}, environment)
            write_known(directory, prefect=api.url, mlflow=None, own=False)
        elif known["prefect"] != api.url:
            raise ValueError(f"a worker for {without_password(known['prefect'])} is up: run `ratchet down` first")
        try:
            supervisord.ensure("worker")
            wait_for_worker(api, directory / "worker.log")
        except BaseException:
            supervisord.stop()
            raise
    return api


def wait_for_worker(api: PrefectApi, log: Path) -> None:
    """Wait until the worker that supervisord keeps is online.

    Raises:
        ServiceFailed: It does not come online; the message names its log.
    """
    from flows.prefect_page.deploy import worker_is_online

    deadline = time.monotonic() + STARTUP_SECONDS
    while not worker_is_online(api, _worker_name()):
        if time.monotonic() > deadline:
            raise ServiceFailed(f"the worker did not come online within {STARTUP_SECONDS} s: see {log}")
        time.sleep(0.5)


def worker_command(*options: str) -> list[str]:
    """Return the command that runs a worker of the pool.

    Args:
        options: Further options of `prefect worker start`.
    """
    from flows.prefect_page.deploy import POOL

    return [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", *options]


def kept_worker_command() -> list[str]:
    """Return the command of the worker that supervisord keeps."""
    return worker_command("--name", _worker_name())


def worker_environment(runs: Path) -> dict[str, str]:
    """Return the environment of a worker that writes to `runs`, besides its servers."""
    return {"DO_NOT_TRACK": "true", RUNS_VARIABLE: str(runs), WORKER_RUNS: str(runs)}


def _worker_name() -> str:
    return f"ratchet-{platform.node()}"
