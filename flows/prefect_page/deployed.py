"""Whether what a deployed flow run writes will last.

A worker runs it in a folder that the worker deletes afterwards, unless the deployment names another.
"""

import os
from pathlib import Path

from components.campaign.state import RUNS_VARIABLE

WORKER_RUNS = "RATCHET_WORKER_RUNS"
"""The RATCHET_RUNS that a worker was started with; a deployment's own value replaces that one in its flow runs."""
STORE_VARIABLE = "MLFLOW_TRACKING_URI"


def refuse_runs_that_vanish() -> None:
    """Refuse a flow run of a deployment whose files nobody would find afterwards.

    A flow run that a terminal started is not checked.

    Raises:
        ValueError: RATCHET_RUNS is not set, is relative, does not exist or is not the worker's; or MLflow's store is a
            relative path.
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
    if _is_relative(store):
        raise ValueError(
            f"{STORE_VARIABLE} = {store} is relative to a folder that the worker may delete: use an absolute path"
        )


def _is_relative(store: str) -> bool:
    path = store.removeprefix("sqlite:///").removeprefix("file:")
    return bool(path) and ":" not in path and not path.startswith(("/", "databricks"))
