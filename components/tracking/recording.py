"""Records a round: finds what MLflow already has of it, and adds what is missing.

FINISHED is written last, so a finished run is a complete one. A run that a killed process left RUNNING is found by its tags, filled up
and finished by the next recording of the same round; `close_dangling` ends it at once, for whoever looks in between.
"""

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, Run, RunTag

from components.records import Record, RoundRecord
from components.tracking import facts as read
from components.tracking import measurements, registry
from components.tracking.facts import RoundFacts
from components.tracking.views import view_tag
from components.tracking.store import artifact_location, connected, database, tracking_uri

_MAX_METRICS, _MAX_PARAMS = 1000, 100  # what MLflow takes in one batch
_KIND = "kind"
_SUPERSEDED = "superseded"
_PAGES = {"mlflow.experimentKind": "custom_model_development"}  # without it the experiment opens in the layout for traces of agents
log = logging.getLogger(__name__)


class Tracked(Record):
    """Where MLflow has a round."""

    run_id: str
    experiment_id: str
    model_version: int | None
    """Version of the registered model that the round's challenger is; None when its weights were no longer on disk."""


def record_round(campaign_dir: Path, round: int, *, config: dict[str, Any], record: RoundRecord, git_sha: str) -> Tracked:
    """Brings MLflow up to date with a finished round: its run, its model version and aliases, and the campaign's curves.

    It may be called again at any time, after a crash at any point too: nothing is added twice.

    Args:
        campaign_dir: runs/<campaign>; its name is the experiment's and the registered model's.
        round: Number of the round.
        config: The campaign's resolved configuration.
        record: The round as it stands, or will stand, in campaign.json.
        git_sha: Commit of the code that ran the round.

    Raises:
        TrackingUnavailable: MLflow cannot be reached or written. The round's files are untouched; call again later.
        OSError: A file of the round is missing.
    """
    assert round == record.round, (round, record.round)
    facts = read.read_facts(campaign_dir, record, config=config, git_sha=git_sha)
    with connected(campaign_dir.parent) as client:
        experiment_id = _experiment(client, campaign_dir)
        run = _round_run(client, experiment_id, facts)
        _fill(client, run, facts)
        version = _record_model(client, run, facts)
        _record_campaign(client, experiment_id, facts)
        _finish(client, run, facts)
    return Tracked(run_id=run.info.run_id, experiment_id=experiment_id, model_version=version)


def close_dangling(campaign: str, runs: Path) -> int:
    """Ends as KILLED every run of the campaign that a killed process left RUNNING; recording its round again finishes it.

    Only whoever holds the campaign's lock may call this: a run that is being written looks the same.

    Args:
        campaign: Name of the campaign.
        runs: Directory that holds the campaigns' directories.

    Returns:
        How many runs were ended.

    Raises:
        TrackingUnavailable: MLflow cannot be reached or written.
    """
    if tracking_uri(runs) == f"sqlite:///{database(runs)}" and not database(runs).exists():
        return 0
    with connected(runs) as client:
        experiment = client.get_experiment_by_name(campaign)
        if experiment is None:
            return 0
        dangling = _search(client, experiment.experiment_id, f"attributes.status = 'RUNNING' and tags.campaign = '{campaign}'")
        for run in dangling:
            client.set_terminated(run.info.run_id, status="KILLED", end_time=_now_ms())
        return len(dangling)


def _experiment(client: MlflowClient, campaign_dir: Path) -> str:
    name = campaign_dir.name
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        note = f"Campaign {name}: one run a round, and the run `campaign` with one point a round in its curves."
        location = artifact_location(campaign_dir.parent, name)
        view, state = view_tag(_now_ms())
        return client.create_experiment(name, artifact_location=location, tags=_PAGES | {"mlflow.note.content": note, view: state})
    if experiment.lifecycle_stage != "active":
        raise RuntimeError(
            f"experiment {name} was deleted there: bring it back with `mlflow experiments restore -x {experiment.experiment_id}`"
        )
    for key, value in _PAGES.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment.experiment_id


def _round_run(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> Run:
    number = facts.record.round
    where = f"tags.campaign = '{facts.campaign}' and tags.{_KIND} = 'round'"
    # A campaign whose directory was deleted may begin again under its name: its first round looks at all runs of the old one.
    found = _search(client, experiment_id, where if number == min(facts.known) else f"{where} and tags.round = '{number}'")
    digests = {str(known.round): known.policy_digest for known in facts.known.values()}
    current = [run for run in found if run.data.tags.get("policy_digest") == digests.get(run.data.tags["round"])]
    mine = [run for run in current if run.data.tags["round"] == str(number) and _SUPERSEDED not in run.data.tags]
    others = [run for run in found if run not in current] + mine[1:]
    _supersede(client, others)
    tags = read.lineage(facts) | {_KIND: "round"}
    return mine[0] if mine else _create(client, experiment_id, f"round {number:03d}", tags, facts)


def _campaign_run(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> Run:
    origin = facts.known[min(facts.known)].policy_digest
    found = _search(client, experiment_id, f"tags.campaign = '{facts.campaign}' and tags.{_KIND} = 'campaign'")
    mine = [run for run in found if run.data.tags["origin_digest"] == origin and _SUPERSEDED not in run.data.tags]
    _supersede(client, [run for run in found if run.data.tags["origin_digest"] != origin] + mine[1:])
    tags = {"campaign": facts.campaign, _KIND: "campaign", "origin_digest": origin}
    return mine[0] if mine else _create(client, experiment_id, "campaign", tags, facts)


def _create(client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str], facts: RoundFacts) -> Run:
    source = {"mlflow.source.name": "ratchet", "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": facts.git_sha}
    return client.create_run(experiment_id, start_time=facts.started_ms, tags=tags | source, run_name=name)


def _supersede(client: MlflowClient, runs: Sequence[Run]) -> None:
    """Marks runs of weights that are no longer the campaign's; they stay readable, and no longer pass for its rounds."""
    for run in runs:
        if _SUPERSEDED not in run.data.tags:
            log.warning("MLflow run %s (%s) is of an earlier campaign of this name; marking it superseded", run.info.run_name, run.info.run_id)
            client.update_run(run.info.run_id, name=f"{run.info.run_name} (superseded)")
            client.set_tag(run.info.run_id, _SUPERSEDED, "true")


def _fill(client: MlflowClient, run: Run, facts: RoundFacts) -> None:
    """Adds the round's tags, params, metrics, data sets and files, whatever of them is missing."""
    table = f'[{{"path": "{read.SAMPLES_TABLE}", "type": "table"}}]'
    tags = read.lineage(facts) | {"mlflow.note.content": read.description(facts), "mlflow.loggedArtifacts": table}
    _set_tags(client, run, tags)
    _add_params(client, run, read.params(facts))
    _add_points(client, run, measurements.step_points(facts) + measurements.round_points(facts))
    logged = {(item.dataset.name, item.dataset.digest) for item in (run.inputs.dataset_inputs if run.inputs else [])}
    inputs = [item for item in read.datasets(facts) if (item.dataset.name, item.dataset.digest) not in logged]
    if inputs:
        client.log_inputs(run.info.run_id, datasets=inputs)
    with tempfile.TemporaryDirectory() as staging:
        for name, content in read.artifacts(facts).items():
            path = Path(staging, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run.info.run_id, staging)


def _record_model(client: MlflowClient, run: Run, facts: RoundFacts) -> int | None:
    model_id = registry.ensure_model(client, run, facts)
    if model_id is None:
        return None
    outputs = run.outputs.model_outputs if run.outputs else []
    if model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=facts.record.round)])
    version = registry.ensure_version(client, model_id, run, facts)
    registry.move_aliases(client, version, facts)
    return version


def _record_campaign(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> None:
    run = _campaign_run(client, experiment_id, facts)
    _add_params(client, run, read.params(facts))
    _add_points(client, run, measurements.campaign_points(facts))
    if facts.record.round == max(facts.known):
        _set_tags(client, run, {"champion": str(facts.champion), "git_sha": facts.git_sha})
    _finish(client, run, facts)


def _finish(client: MlflowClient, run: Run, facts: RoundFacts) -> None:
    if run.info.status != "FINISHED" or run.info.end_time < facts.ended_ms:
        client.set_terminated(run.info.run_id, status="FINISHED", end_time=facts.ended_ms)


def _set_tags(client: MlflowClient, run: Run, tags: dict[str, str]) -> None:
    changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    if changed:
        client.log_batch(run.info.run_id, tags=changed, synchronous=True)


def _add_params(client: MlflowClient, run: Run, params: dict[str, str]) -> None:
    missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
    for first in range(0, len(missing), _MAX_PARAMS):
        client.log_batch(run.info.run_id, params=missing[first : first + _MAX_PARAMS], synchronous=True)


def _add_points(client: MlflowClient, run: Run, points: Sequence[Metric]) -> None:
    # MLflow adds a second point for a step that is logged again, so what it has is looked up first.
    keys = {point.key for point in points} & run.data.metrics.keys()
    logged = {(key, point.step) for key in keys for point in client.get_metric_history(run.info.run_id, key)}
    missing = [point for point in points if (point.key, point.step) not in logged]
    for first in range(0, len(missing), _MAX_METRICS):
        client.log_batch(run.info.run_id, metrics=missing[first : first + _MAX_METRICS], synchronous=True)


def _search(client: MlflowClient, experiment_id: str, where: str) -> list[Run]:
    page = client.search_runs([experiment_id], where, order_by=["attributes.start_time ASC"])
    found = list(page)
    while page.token:
        page = client.search_runs([experiment_id], where, order_by=["attributes.start_time ASC"], page_token=page.token)
        found += page
    return found


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
