"""The background servers: Prefect, MLflow, the labelling page and a worker on this machine, under supervisord.

They listen on the loopback interface only. Their logs are in `runs/.services`; their databases are Prefect's own and
MLflow's store.
"""

import os
from pathlib import Path

from components.runtime.addresses import LOOPBACK, without_password
from flows.servers.addresses import Addresses, forget, read_known, running, services_directory, write_known
from flows.servers.key import ensure_key, ensure_private, server_environment
from flows.servers.labelling_app import LABEL_PORT, labelling_command
from flows.servers.mlflow_app import check_password, mlflow_command, mlflow_environment, read_password, wants_sign_in
from flows.servers.prefect_app import prefect_command
from flows.servers.supervisord import Supervisord
from flows.servers.temporary import MLFLOW_PORT, PREFECT_PORT, check_ports, wait_until_up
from flows.servers.worker import kept_worker_command, wait_for_worker, worker_environment


def start(runs: Path, *, prefect_port: int, mlflow_port: int, label_port: int) -> Addresses:
    """Start the services that are not up, wait until they answer, and return their addresses. Idempotent.

    Raises:
        ValueError: A port is taken by something else.
        ServiceFailed: A server did not answer; the message names its log.
    """
    from components.tracking import ensure_store, tracking_uri

    directory = services_directory(runs)
    supervisord = Supervisord(directory)
    ports = {PREFECT_PORT: prefect_port, MLFLOW_PORT: mlflow_port, LABEL_PORT: label_port}
    if supervisord.pid() is None:
        check_ports(ports)
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
            check_ports(ports)
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
            LABEL_PORT: str(label_port),
            **mlflow_environment(runs, directory, store=store, port=mlflow_port, sign_in=sign_in),
        }
        addresses = Addresses(
            prefect=f"http://{LOOPBACK}:{prefect_port}",
            mlflow=f"http://{LOOPBACK}:{mlflow_port}",
            labelling=f"http://{LOOPBACK}:{label_port}",
            key=key,
            mlflow_password=read_password(directory) if sign_in else None,
        )
        commands = {
            "prefect": prefect_command(prefect_port, log_level="warning"),
            "mlflow": mlflow_command(mlflow_port, sign_in=sign_in),
            "labelling": labelling_command(label_port),
            "worker": kept_worker_command(),
        }
        forget(directory)
        try:
            supervisord.start(commands, environment | addresses.mlflow_environment())
            _wait(addresses, supervisord)
        except BaseException:
            supervisord.stop()
            raise
        write_known(
            directory,
            prefect=addresses.prefect,
            mlflow=addresses.mlflow,
            labelling=addresses.labelling,
            own=True,
            sign_in=sign_in,
        )
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
    for name in ("prefect", "mlflow", *(["labelling"] if known.labelling is not None else [])):
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
    if addresses.labelling is not None:
        wait_until_up(f"{addresses.labelling}/healthz", "labelling", log=directory / "labelling.log")
    if addresses.mlflow_password is not None:
        check_password(addresses.mlflow, directory)
    wait_for_worker(addresses.api, directory / "worker.log")
