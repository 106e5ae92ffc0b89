"""Find a campaign's experiment and runs by their tags, or create them, and mark superseded runs."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from components.campaign.state import State
from components.report.wording import model_name, rollback_line
from components.tracking.facts import RoundFacts, description, lineage, training_tags
from components.tracking.failures import TrackingRefused
from components.tracking.locations import refuse_proxy
from components.tracking.ownership import claim_experiment, owner_tags
from components.tracking.store import artifact_location, tracking_uri
from components.tracking.views import colour, view_tag

_SUPERSEDED = "superseded"
# Some of MLflow's pages depend on this tag; the default page of MLflow 3.17 does not (see `views.experiment_url`).
KIND_OF_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}
log = logging.getLogger(__name__)


def find_experiment(client: MlflowClient, campaign_dir: Path, state: State) -> Experiment | None:
    """Return the campaign's experiment; None before its first round is recorded.

    Raises:
        NameTaken: The experiment with the campaign's name belongs to another campaign.
    """
    experiment = client.get_experiment_by_name(campaign_dir.name)
    if experiment is not None:
        claim_experiment(client, campaign_dir, state, experiment)
    return experiment


def ensure_experiment(client: MlflowClient, campaign_dir: Path, state: State) -> str:
    """Return the id of the campaign's experiment; create it if it is missing.

    Raises:
        NameTaken: The experiment with the campaign's name belongs to another campaign.
        TrackingRefused: A user deleted it in MLflow, or only a server finds its files.
    """
    name = campaign_dir.name
    experiment = find_experiment(client, campaign_dir, state)
    if experiment is None:
        note = (
            f"Campaign {name}: one run per round, and the run `campaign` with one point per round. "
            "**Views > Rounds** shows them side by side."
        )
        key, view = view_tag(time.time_ns() // 1_000_000)
        tags = KIND_OF_EXPERIMENT | owner_tags(campaign_dir, state) | {"mlflow.note.content": note, key: view}
        return str(
            client.create_experiment(name, artifact_location=artifact_location(campaign_dir.parent, name), tags=tags)
        )
    if experiment.lifecycle_stage != "active":
        raise TrackingRefused(
            f"experiment {name} was deleted in MLflow: restore it with "
            f"`mlflow experiments restore -x {experiment.experiment_id}`"
        )
    refuse_proxy(experiment.artifact_location, uri=tracking_uri(campaign_dir.parent), name=name)
    return str(experiment.experiment_id)


def ensure_round_run(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> Run:
    """Return the run of this round, found by round number and policy digest; create it if it is missing."""
    number = facts.record.round
    where = f"tags.campaign = '{facts.campaign}' and tags.kind = 'round'"
    # A campaign whose directory was deleted may begin again under the same name: its first round checks all runs of the
    # old campaign.
    runs = search(client, experiment_id, where if number == facts.first else f"{where} and tags.round = '{number}'")
    digests = {str(record.round): record.policy_digest for record in facts.known.values()}
    current = [run for run in runs if run.data.tags.get("policy_digest") == digests.get(run.data.tags["round"])]
    of_round = [run for run in current if run.data.tags["round"] == str(number) and _SUPERSEDED not in run.data.tags]
    supersede(client, [run for run in runs if run not in current] + of_round[1:])
    if of_round:
        return of_round[0]
    tags = (
        lineage(facts)
        | training_tags(facts)
        | {
            "kind": "round",
            "mlflow.note.content": description(facts),
        }
    )
    if facts.record.git_sha is not None:
        tags["mlflow.source.git.commit"] = facts.record.git_sha
    return _create(client, experiment_id, f"round {number:03d}", tags, facts.files.started_ms, number)


def ensure_campaign_run(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> Run:
    """Return the run with the campaign's curves, found by its first round's policy digest; create it if missing."""
    runs = _campaign_runs(client, experiment_id, facts.campaign)
    current = _of_campaign(runs, facts.state)
    supersede(client, [run for run in runs if run not in current[:1]])
    if current:
        return current[0]
    tags = {"campaign": facts.campaign, "kind": "campaign", "origin_digest": facts.state.rounds[0].policy_digest}
    return _create(client, experiment_id, "campaign", tags, facts.campaign_started_ms, None)


def find_campaign_run(client: MlflowClient, experiment_id: str, name: str, state: State) -> Run | None:
    """Return the run with the campaign's curves; None before its first round is recorded."""
    return next(iter(_of_campaign(_campaign_runs(client, experiment_id, name), state)), None)


def _campaign_runs(client: MlflowClient, experiment_id: str, name: str) -> list[Run]:
    return search(client, experiment_id, f"tags.campaign = '{name}' and tags.kind = 'campaign'")


def _of_campaign(runs: Sequence[Run], state: State) -> list[Run]:
    origin = state.rounds[0].policy_digest if state.rounds else None
    return [run for run in runs if run.data.tags.get("origin_digest") == origin and _SUPERSEDED not in run.data.tags]


def note_champion(client: MlflowClient, run: Run, state: State) -> None:
    """Write the champion and all rollbacks into the tags of the run `campaign`."""
    tags = {"champion": str(state.champion.round)}
    if state.rollbacks:
        lines = [f"- {rollback_line(rollback)}" for rollback in state.rollbacks]
        tags |= {"rollbacks": str(len(lines))}
        tags |= {"mlflow.note.content": "\n".join([f"The champion is {model_name(state.champion.round)}.", "", *lines])}
    for key, value in tags.items():
        if run.data.tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)


def search(client: MlflowClient, experiment_id: str, where: str) -> list[Run]:
    """Return all runs of an experiment that match a filter, oldest first."""
    order = ["attributes.start_time ASC"]
    page = client.search_runs([experiment_id], where, order_by=order)
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment_id], where, order_by=order, page_token=page.token)
        runs += page
    return runs


def _create(
    client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str], started_ms: int, number: int | None
) -> Run:
    display = {"mlflow.source.name": "ratchet", "mlflow.source.type": "LOCAL", "mlflow.runColor": colour(number)}
    return client.create_run(experiment_id, start_time=started_ms, tags=tags | display, run_name=name)


def supersede(client: MlflowClient, runs: Sequence[Run]) -> None:
    """Mark runs of weights that no longer belong to the campaign.

    They stay readable, but no longer count as its rounds.
    """
    for run in runs:
        if _SUPERSEDED not in run.data.tags:
            log.warning(
                "MLflow run %s (%s) does not belong to the current weights of its campaign; marking it as superseded",
                run.info.run_name,
                run.info.run_id,
            )
            client.update_run(run.info.run_id, name=f"{run.info.run_name} (superseded)")
            client.set_tag(run.info.run_id, _SUPERSEDED, "true")
