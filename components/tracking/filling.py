"""Add to a run what it does not have yet: params, points, data sets, files, its end.

Every function here can be repeated.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run

from components.tracking.contents import as_json
from components.tracking.store import uploading

_TABLES_TAG = "mlflow.loggedArtifacts"  # which of a run's files MLflow's pages show as tables
_MAX_METRICS, _MAX_PARAMS = 1000, 100  # what MLflow takes in one batch


def add_params(client: MlflowClient, run: Run, params: Mapping[str, str]) -> None:
    """Add the params whose keys are missing; existing ones stay, because MLflow refuses to change them."""
    missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for first in range(0, len(missing), _MAX_PARAMS):
        client.log_batch(run.info.run_id, params=missing[first : first + _MAX_PARAMS], synchronous=True)


def add_points(client: MlflowClient, run: Run, points: Sequence[Metric]) -> None:
    """Add the points whose metric has none at their step yet: MLflow itself would add a second one."""
    keys = {point.key for point in points} & run.data.metrics.keys()
    logged = {(key, point.step) for key in sorted(keys) for point in client.get_metric_history(run.info.run_id, key)}
    missing = [point for point in points if (point.key, point.step) not in logged]
    for first in range(0, len(missing), _MAX_METRICS):
        client.log_batch(run.info.run_id, metrics=missing[first : first + _MAX_METRICS], synchronous=True)


def add_datasets(client: MlflowClient, run: Run, datasets: Sequence[DatasetInput]) -> None:
    """Add the data sets as the run's inputs; MLflow itself accepts each name and digest only once."""
    client.log_inputs(run.info.run_id, datasets=list(datasets))


def add_files(client: MlflowClient, run: Run, files: Mapping[str, bytes]) -> None:
    """Write the files to the run's artifacts by their names; an existing file is replaced."""
    with tempfile.TemporaryDirectory() as staging:
        for name, content in files.items():
            path = Path(staging, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        with uploading(max(map(len, files.values()), default=0)):
            client.log_artifacts(run.info.run_id, staging)


def add_tables(client: MlflowClient, run: Run, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables to the run's artifacts, and declare them so that MLflow's pages show them as tables."""
    add_files(client, run, {name: as_json(table) for name, table in tables.items()})
    declared = json.dumps([{"path": name, "type": "table"} for name in tables])
    if run.data.tags.get(_TABLES_TAG) != declared:
        client.set_tag(run.info.run_id, _TABLES_TAG, declared)


def finish(client: MlflowClient, run: Run, ended_ms: int) -> None:
    """Mark the run as FINISHED at the end of its last stage."""
    client.set_terminated(run.info.run_id, status="FINISHED", end_time=ended_ms)
