"""Finds a campaign's experiment and runs by their tags, or creates them.

Says which runs are no longer the campaign's.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from components.campaign.state import State
from components.report.wording import model_name, rollback_line
from components.tracking.facts import RoundFacts, description, lineage, training_tags
from components.tracking.store import artifact_location
from components.tracking.views import colour, view_tag

_SUPERSEDED = "superseded"
# Some of MLflow's pages go by this tag; where 3.17 lands by itself does not (see `links.experiment_url`).
_KIND_OF_EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}
log = logging.getLogger(__name__)


def ensure_experiment(client: MlflowClient, campaign_dir: Path) -> str:
    """Id of the experiment that has the campaign's name.

    Raises:
        RuntimeError: Someone deleted the experiment in MLflow.
    """
    name = campaign_dir.name
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        note = f"Campaign {name}: one run a round, and the run `campaign` with a point a round. **Views > Rounds** sets them side by side."
        view, state = view_tag(time.time_ns() // 1_000_000)
        tags = _KIND_OF_EXPERIMENT | {"mlflow.note.content": note, view: state}
        return str(
            client.create_experiment(name, artifact_location=artifact_location(campaign_dir.parent, name), tags=tags)
        )
    if experiment.lifecycle_stage != "active":
        raise RuntimeError(
            f"experiment {name} was deleted; `mlflow experiments restore -x {experiment.experiment_id}` brings it back"
        )
    return str(experiment.experiment_id)


def ensure_round_run(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> Run:
    """The run of this round, by its number and its policy's digest."""
    number = facts.record.round
    where = f"tags.campaign = '{facts.campaign}' and tags.kind = 'round'"
    # A campaign whose directory was deleted may begin again under its name: its first round looks at all runs of the
    # old one.
    found = search(client, experiment_id, where if number == facts.first else f"{where} and tags.round = '{number}'")
    digests = {str(known.round): known.policy_digest for known in facts.known.values()}
    current = [run for run in found if run.data.tags.get("policy_digest") == digests.get(run.data.tags["round"])]
    mine = [run for run in current if run.data.tags["round"] == str(number) and _SUPERSEDED not in run.data.tags]
    _supersede(client, [run for run in found if run not in current] + mine[1:])
    if mine:
        return mine[0]
    tags = (
        lineage(facts)
        | training_tags(facts)
        | {
            "kind": "round",
            "mlflow.source.git.commit": facts.git_sha,
            "mlflow.note.content": description(facts),
        }
    )
    return _create(client, experiment_id, f"round {number:03d}", tags, facts.files.started_ms, number)


def ensure_campaign_run(client: MlflowClient, experiment_id: str, facts: RoundFacts) -> Run:
    """The run with the campaign's curves, by the digest of its first round's policy."""
    found = _campaign_runs(client, experiment_id, facts.campaign)
    mine = _of_campaign(found, facts.state)
    _supersede(client, [run for run in found if run not in mine[:1]])
    if mine:
        return mine[0]
    tags = {"campaign": facts.campaign, "kind": "campaign", "origin_digest": facts.state.rounds[0].policy_digest}
    return _create(client, experiment_id, "campaign", tags, facts.campaign_started_ms, None)


def find_campaign_run(client: MlflowClient, experiment_id: str, name: str, state: State) -> Run | None:
    """The run with the campaign's curves, or None before its first round was recorded."""
    return next(iter(_of_campaign(_campaign_runs(client, experiment_id, name), state)), None)


def _campaign_runs(client: MlflowClient, experiment_id: str, name: str) -> list[Run]:
    return search(client, experiment_id, f"tags.campaign = '{name}' and tags.kind = 'campaign'")


def _of_campaign(found: Sequence[Run], state: State) -> list[Run]:
    origin = state.rounds[0].policy_digest if state.rounds else None
    return [run for run in found if run.data.tags.get("origin_digest") == origin and _SUPERSEDED not in run.data.tags]


def tell_champion(client: MlflowClient, run: Run, state: State) -> None:
    """Says in the run `campaign` who the champion is, and every rollback by which it became that."""
    said = {"champion": str(state.champion.round)}
    if state.rollbacks:
        lines = [f"- {rollback_line(rollback)}" for rollback in state.rollbacks]
        said |= {"rollbacks": str(len(lines))}
        said |= {"mlflow.note.content": "\n".join([f"The champion is {model_name(state.champion.round)}.", "", *lines])}
    for key, value in said.items():
        if run.data.tags.get(key) != value:
            client.set_tag(run.info.run_id, key, value)


def search(client: MlflowClient, experiment_id: str, where: str) -> list[Run]:
    """All runs of an experiment that match, oldest first."""
    order = ["attributes.start_time ASC"]
    page = client.search_runs([experiment_id], where, order_by=order)
    found = list(page)
    while page.token:
        page = client.search_runs([experiment_id], where, order_by=order, page_token=page.token)
        found += page
    return found


def _create(
    client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str], started_ms: int, number: int | None
) -> Run:
    shown = {"mlflow.source.name": "ratchet", "mlflow.source.type": "LOCAL", "mlflow.runColor": colour(number)}
    return client.create_run(experiment_id, start_time=started_ms, tags=tags | shown, run_name=name)


def _supersede(client: MlflowClient, runs: Sequence[Run]) -> None:
    """Marks runs of weights that are no longer the campaign's.

    They stay readable, and no longer pass for its rounds.
    """
    for run in runs:
        if _SUPERSEDED not in run.data.tags:
            log.warning(
                "MLflow run %s (%s) is not of this campaign's weights; marking it superseded",
                run.info.run_name,
                run.info.run_id,
            )
            client.update_run(run.info.run_id, name=f"{run.info.run_name} (superseded)")
            client.set_tag(run.info.run_id, _SUPERSEDED, "true")
