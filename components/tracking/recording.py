"""Record a round: find what MLflow already has of it, and add what is missing.

The last write marks a round's run as FINISHED, so a FINISHED run is complete. If a killed process left a run RUNNING,
the next recording of the same round finds the run by its tags, completes it and marks it as FINISHED.
"""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Run

from components.campaign.state import read_state
from components.config import TrackingConfig
from components.records import Record, RoundRecord
from components.tracking import registry
from components.tracking.contents import artifacts, datasets, tables
from components.tracking.facts import RoundFacts, params, read_facts
from components.tracking.filling import add_datasets, add_files, add_params, add_points, add_tables, finish
from components.tracking.measurements import campaign_points, round_points, step_points, system_points
from components.tracking.registry import find_own_model, move_champion
from components.tracking.runs import (
    ensure_campaign_run,
    ensure_experiment,
    ensure_round_run,
    find_campaign_run,
    find_experiment,
    note_champion,
)
from components.tracking.store import connected, is_shared, store_exists
from components.tracking.traces import add_traces, comparisons


class Tracked(Record):
    """Ids of a round in MLflow."""

    run_id: str
    experiment_id: str
    model_version: int | None
    """The challenger's version of the registered model; None if its weights were no longer on disk."""


def record_round(
    campaign_dir: Path, record: RoundRecord, *, config: dict[str, Any], tracking: TrackingConfig
) -> Tracked:
    """Bring MLflow up to date with a finished round: its run, model version and aliases, and the campaign's curves.

    Idempotent: it may be called again at any time, even after a crash, and adds nothing twice.

    Args:
        campaign_dir: runs/<campaign>; its name is the experiment's and the registered model's.
        record: The round's record that is, or will be, in campaign.json.
        config: The resolved configuration that the round ran with.
        tracking: What may leave the campaign's directory.

    Raises:
        NameTaken: Another campaign with this name is in MLflow; nothing of it was changed.
        TrackingRefused: The failure will not pass by itself.
        TrackingUnavailable: MLflow cannot be reached or written, or did not answer a request within 15 s. The round's
            files are unchanged; call again later.
        OSError: A file of the round is missing.
    """
    facts = read_facts(campaign_dir, record, config=config)
    with connected(campaign_dir.parent) as client:
        experiment_id = ensure_experiment(client, campaign_dir, facts.state)
        find_own_model(client, campaign_dir, facts.state)
        run = ensure_round_run(client, experiment_id, facts)
        # The plots of MLflow's compare page are empty if no param differs.
        add_params(client, run, {"round": str(record.round)} | params(facts))
        add_points(client, run, round_points(facts) + step_points(facts) + system_points(facts))
        add_datasets(client, run, datasets(facts))
        add_files(client, run, artifacts(facts))
        add_tables(client, run, tables(facts, tracking))
        judged_ms = facts.files.published_ms["collect_preferences"]
        add_traces(client, run, comparisons(facts, tracking), round=record.round, at_ms=judged_ms)
        version = _record_model(client, run, facts)
        registry.move_champion(client, facts.campaign, facts.state)
        _record_campaign(client, experiment_id, facts)
        if run.info.status != "FINISHED":
            finish(client, run, facts.files.ended_ms)
    return Tracked(run_id=run.info.run_id, experiment_id=experiment_id, model_version=version)


def _record_model(client: MlflowClient, run: Run, facts: RoundFacts) -> int | None:
    model_id = registry.ensure_model(client, run, facts)
    if model_id is None:
        return None
    outputs = run.outputs.model_outputs if run.outputs else []
    if model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step=0)])
    version = registry.ensure_version(client, model_id, run, facts)
    registry.move_challenger(client, version, facts)
    return version


def _record_campaign(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> None:
    run = ensure_campaign_run(client, experiment_id, facts)
    add_params(client, run, params(facts))
    add_points(client, run, campaign_points(facts))
    newest = facts.record.round == max(facts.known)
    note_champion(client, run, facts.state)
    if newest or run.info.status != "FINISHED":
        finish(client, run, facts.files.ended_ms)


def announce_champion(campaign_dir: Path) -> None:
    """Move the alias `champion` to campaign.json's champion, and note the champion in the run `campaign`.

    Do nothing if MLflow does not know the campaign.

    Args:
        campaign_dir: runs/<campaign>.

    Raises:
        NameTaken: Another campaign with this name is in MLflow; nothing of it was changed.
        TrackingUnavailable: MLflow cannot be reached or written. The next recorded round brings both up to date.
    """
    state = read_state(campaign_dir)
    assert state is not None, campaign_dir
    if not store_exists(campaign_dir.parent):
        return
    with connected(campaign_dir.parent) as client:
        experiment = find_experiment(client, campaign_dir, state)
        if experiment is None or find_own_model(client, campaign_dir, state) is None:
            return
        move_champion(client, campaign_dir.name, state)
        run = find_campaign_run(client, experiment.experiment_id, campaign_dir.name, state)
        if run is not None:
            note_champion(client, run, state)


def refuse_taken_name(campaign_dir: Path) -> None:
    """Refuse a campaign whose name another campaign has in a shared MLflow, before it has run a round.

    Args:
        campaign_dir: runs/<campaign>.

    Raises:
        NameTaken: Another campaign has the name.
        TrackingUnavailable: MLflow cannot be reached or read.
    """
    state = read_state(campaign_dir)
    assert state is not None, campaign_dir
    if is_shared(campaign_dir.parent):
        with connected(campaign_dir.parent) as client:
            find_experiment(client, campaign_dir, state)
            find_own_model(client, campaign_dir, state)
