"""The background servers: Prefect, MLflow and a worker on this machine, under supervisord.

They listen on the loopback interface only. Their logs are in `runs/.services`; their databases are Prefect's own and
MLflow's store.
"""

import os
from pathlib import Path

from components.runtime.addresses import LOOPBACK, without_password
from flows.servers.addresses import Addresses, forget, read_known, running, services_directory, write_known
from flows.servers.key import ensure_key, ensure_private, server_environment
from flows.servers.mlflow_app import check_password, mlflow_command, mlflow_environment, read_password, wants_sign_in
from flows.servers.prefect_app import prefect_command
from flows.servers.supervisord import Supervisord
from flows.servers.temporary import check_ports, wait_until_up
from flows.servers.worker import kept_worker_command, wait_for_worker, worker_environment


def start(runs: Path, *, prefect_port: int, mlflow_port: int) -> Addresses:
    """Start the services that are not up, wait until they answer, and return their addresses. Idempotent.

    Raises:
        ValueError: A port is taken by something else.
        ServiceFailed: A server did not answer; the message names its log.
    """
    from components.tracking import ensure_store, tracking_uri

    directory = services_directory(runs)
    supervisord = Supervisord(directory)
    if supervisord.pid() is None:
        check_ports(prefect_port, mlflow_port)
    sign_in, store = wants_sign_in(), tracking_uri(runs)
    ensure_private(directory)
    with supervisord.one_start():
        known = running(runs)
        if known is not None:
            _start_again(known, supervisord)
            return known
        if read_known(directory) is not None:
            raise ValueError("`ratchet up --only worker` started a worker for other servers: run `ratchet down` first")
        if supervisord.stop():  # a start that was killed while it waited
            check_ports(prefect_port, mlflow_port)
        if store.startswith("http"):
            raise ValueError(
                f"MLFLOW_TRACKING_URI = {without_password(store)} is a server already: unset it, or start a worker "
                "alone with `ratchet up --only worker`"
            )
        ensure_store(runs)
        key = ensure_key(directory)
        environment = {
            **os.environ,
            **worker_environment(runs),
            **server_environment(prefect_port, key),
            **mlflow_environment(runs, directory, store=store, port=mlflow_port, sign_in=sign_in),
        }
        addresses = Addresses(
            f"http://{LOOPBACK}:{prefect_port}",
            f"http://{LOOPBACK}:{mlflow_port}",
            key,
            read_password(directory) if sign_in else None,
        )
        commands = {
            "prefect": prefect_command(prefect_port, log_level="warning"),
            "mlflow": mlflow_command(mlflow_port, sign_in=sign_in),
            "worker": kept_worker_command(),
        }
        forget(directory)
        try:
            supervisord.start(commands, environment | addresses.mlflow_environment())
            _wait(addresses, supervisord)
        except BaseException:
            supervisord.stop()
            raise
        write_known(directory, prefect=addresses.prefect, mlflow=addresses.mlflow, own=True, sign_in=sign_in)
    return addresses


def stop(runs: Path) -> bool:
    """Stop the services and the worker's flow runs, and return whether they were up.

    Raises:
        ServiceFailed: They did not stop.
    """
    directory = services_directory(runs)
    stopped = Supervisord(directory).stop()
    if stopped:
        forget(directory)
    return stopped


def _start_again(known: Addresses, supervisord: Supervisord) -> None:
    """Start what has ended for good, and wait until all of it answers."""
    if known.key is None:
        raise ValueError(
            "the servers were started by an earlier version and do not require a key: "
            "restart them with `ratchet down` and `ratchet up`"
        )
    for name in ("prefect", "mlflow"):
        supervisord.ensure(name)
    _wait(known, supervisord)


def _wait(addresses: Addresses, supervisord: Supervisord) -> None:
    """Wait until the servers answer, and start the worker if it does not run."""
    from flows.prefect_page.deploy import ensure_work_pool

    directory = supervisord.directory
    wait_until_up(f"{addresses.api.url}/health", "Prefect", log=directory / "prefect.log")
    ensure_work_pool(addresses.api)
    supervisord.ensure("worker")
    wait_until_up(f"{addresses.mlflow}/health", "MLflow", log=directory / "mlflow.log")
    if addresses.mlflow_password is not None:
        check_password(addresses.mlflow, directory)
    wait_for_worker(addresses.api, directory / "worker.log")
