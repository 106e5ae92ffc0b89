"""Record what campaigns reached that belong together: the arms of a study, the trials of a sweep, on one page."""

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from components.tracking.failures import TrackingRefused
from components.tracking.filling import add_params, add_points, finish
from components.tracking.locations import refuse_proxy
from components.tracking.runs import KIND_OF_EXPERIMENT, search, supersede
from components.tracking.store import artifact_location, connected, tracking_uri


def record_outcome(
    runs: Path,
    *,
    experiment: str,
    run_name: str,
    digest: str,
    params: Mapping[str, str],
    by_round: Mapping[int, Mapping[str, float | bool | None]],
    final: Mapping[str, float | None],
) -> None:
    """Record what a campaign reached as a run. Idempotent: a run that is there gets only what is missing.

    Args:
        runs: Directory of the campaigns.
        experiment: Name of the experiment, with a slash, which no campaign's has.
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
        now = time.time_ns() // 1_000_000
        run = _run(client, _ensure_experiment(client, runs, experiment), run_name, digest, now)
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


def _ensure_experiment(client: MlflowClient, runs: Path, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        tags = KIND_OF_EXPERIMENT | {"mlflow.note.content": "One run a campaign; a curve has a point a round."}
        return str(client.create_experiment(name, artifact_location=artifact_location(runs, name), tags=tags))
    if experiment.lifecycle_stage != "active":
        raise TrackingRefused(
            f"experiment {name} was deleted in MLflow: restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}`"
        )
    refuse_proxy(experiment.artifact_location, uri=tracking_uri(runs), name=name)
    return str(experiment.experiment_id)


def _run(client: MlflowClient, experiment: str, name: str, digest: str, now: int) -> Run:
    """Return the run of a result; a run of the same name with another result is marked as superseded."""
    runs = search(client, experiment, f"tags.outcome = '{name}'")
    found = [run for run in runs if run.data.tags.get("result") == digest]
    supersede(client, [run for run in runs if run not in found[:1]])
    tags = {"outcome": name, "result": digest, "mlflow.source.name": "ratchet", "mlflow.source.type": "LOCAL"}
    return found[0] if found else client.create_run(experiment, start_time=now, tags=tags, run_name=name)
