"""Whether what a deployed flow run writes will last.

A worker runs it in a folder that the worker deletes afterwards, unless the deployment names another. That one must be
the volume that all workers share, and not a directory of the same name on this machine's own disk.
"""

import contextlib
import os
import secrets
import socket
from pathlib import Path

from components.campaign.state import RUNS_VARIABLE

WORKER_RUNS = "RATCHET_WORKER_RUNS"
"""The RATCHET_RUNS that a worker was started with; a deployment's own value replaces that one in its flow runs."""
STORE_VARIABLE = "MLFLOW_TRACKING_URI"
ID_VARIABLE, ID_FILE = "RATCHET_RUNS_ID", ".id"
"""Identity of a directory of campaigns: in a file of it, and in the deployments that write to it."""


def ensure_runs_id(runs: Path) -> str:
    """Return the identity of the directory of campaigns, which it gets if it has none."""
    runs.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), (runs / ID_FILE).open("x", encoding="ascii") as file:
        file.write(secrets.token_hex(8))
    return _runs_id(runs)


def _runs_id(runs: Path) -> str:
    """Return the identity of a directory; empty if it has none."""
    try:
        return (runs / ID_FILE).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def refuse_runs_that_vanish() -> None:
    """Refuse a flow run of a deployment whose files nobody would find afterwards.

    A flow run that a terminal started is not checked.

    Raises:
        ValueError: RATCHET_RUNS is not set, is relative, does not exist, is not the worker's or is not the directory
            that was deployed; or MLflow's store is a relative path.
    """
    from prefect.runtime import deployment

    if deployment.id is None:
        return
    runs, worker_runs, store = (os.environ.get(name, "") for name in (RUNS_VARIABLE, WORKER_RUNS, STORE_VARIABLE))
    if not Path(runs).is_absolute():
        problem = f"= {runs} is a relative path" if runs else "is not set"
        raise ValueError(
            f"{RUNS_VARIABLE} {problem}, so the worker would delete what this run writes: "
            f"run `ratchet deploy` again, or start the worker with {RUNS_VARIABLE} set to an absolute path"
        )
    if worker_runs and Path(worker_runs).resolve() != Path(runs).resolve():
        raise ValueError(
            f"this deployment writes to {runs}, but its worker was started for {worker_runs}: "
            f"run `ratchet deploy` with {RUNS_VARIABLE}={worker_runs}, or start a worker with {RUNS_VARIABLE}={runs}"
        )
    if not Path(runs).is_dir():
        raise ValueError(
            f"{RUNS_VARIABLE} = {runs} does not exist on this machine: mount its disk, or create the directory"
        )
    deployed = os.environ.get(ID_VARIABLE)
    if deployed and _runs_id(Path(runs)) != deployed:
        raise ValueError(
            f"{RUNS_VARIABLE} = {runs} on {socket.gethostname()} is not the directory that was deployed, which has the "
            f"line {deployed} in {ID_FILE}: mount the shared volume there, or run `ratchet deploy` on this machine"
        )
    if _is_relative(store):
        raise ValueError(
            f"{STORE_VARIABLE} = {store} is relative to a folder that the worker may delete: use an absolute path"
        )


def _is_relative(store: str) -> bool:
    path = store.removeprefix("sqlite:///").removeprefix("file:")
    return bool(path) and ":" not in path and not path.startswith(("/", "databricks"))
