"""Record what the arms of a study reached: one run for each arm and seed, comparable on one page."""

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from components.tracking.failures import TrackingRefused
from components.tracking.filling import add_params, add_points, finish
from components.tracking.locations import refuse_proxy
from components.tracking.runs import KIND_OF_EXPERIMENT, search
from components.tracking.store import artifact_location, connected, tracking_uri

STUDIES = "studies"
"""Begins the names of the studies' experiments, which no campaign has."""


def record_arm(
    runs: Path,
    *,
    study: str,
    run_name: str,
    digest: str,
    params: Mapping[str, str],
    by_round: Mapping[int, Mapping[str, float | bool | None]],
    final: Mapping[str, float | None],
) -> None:
    """Record an arm with one seed. Idempotent: a run that is there gets only what is missing.

    Args:
        runs: Directory of the campaigns.
        study: Name of the study; its experiment is `studies/STUDY`.
        run_name: Name of the run.
        digest: Digest of the result, by which its run is found again.
        params: What tells it from the other runs.
        by_round: Measures of each round's model, which become curves.
        final: Measures of the champion in the end, and what the work took; `final/` and a name.

    Raises:
        TrackingUnavailable: MLflow cannot be reached or written; call again later.
        TrackingRefused: A user deleted the experiment, or only a server finds its files.
    """
    with connected(runs) as client:
        experiment = _experiment(client, runs, study)
        now = time.time_ns() // 1_000_000
        run = _run(client, experiment, run_name, digest, now)
        add_params(client, run, params)
        points = [
            Metric(name, float(value), now, round)
            for round, measures in by_round.items()
            for name, value in measures.items()
            if value is not None
        ]
        points += [Metric(f"final/{name}", float(value), now, 0) for name, value in final.items() if value is not None]
        add_points(client, run, points)
        if run.info.status != "FINISHED":
            finish(client, run, now)


def _experiment(client: MlflowClient, runs: Path, study: str) -> str:
    name = f"{STUDIES}/{study}"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        tags = KIND_OF_EXPERIMENT | {"mlflow.note.content": f"Study {study}: one run for each arm and seed."}
        return str(client.create_experiment(name, artifact_location=artifact_location(runs, name), tags=tags))
    if experiment.lifecycle_stage != "active":
        raise TrackingRefused(
            f"experiment {name} was deleted in MLflow: restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}`"
        )
    refuse_proxy(experiment.artifact_location, uri=tracking_uri(runs), name=name)
    return str(experiment.experiment_id)


def _run(client: MlflowClient, experiment: str, name: str, digest: str, now: int) -> Run:
    found = search(client, experiment, f"tags.result = '{digest}'")
    tags = {"result": digest, "mlflow.source.name": "ratchet", "mlflow.source.type": "LOCAL"}
    return found[0] if found else client.create_run(experiment, start_time=now, tags=tags, run_name=name)
