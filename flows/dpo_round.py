"""One round: generate -> collect -> validate -> train -> evaluate -> promote. Orders the stages; computes nothing."""

from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.context import TagsContext
from prefect.exceptions import Pause
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from components.campaign.files import round_record
from components.campaign.state import finish_round, read_state
from components.campaign.stopping import RoundLimits, refuse_if_converged
from components.config import CampaignConfig
from components.records import Converged, Manifest, RoundStopped, RoundWaits
from components.report.people import judge_alarms
from components.runtime import progress
from components.runtime.provenance import git_sha
from flows.prefect_page.automations import emit_outcome
from flows.prefect_page.earlier_starts import show_as_suspended
from flows.prefect_page.outage import until_answered
from flows.prefect_page.round_progress import shown_on_page
from flows.prefect_page.suspension import Suspension
from flows.prefect_page.waiting import WAITING, wait_for_people
from flows.requests import Round
from tasks.collect_preferences import collect_or_wait
from tasks.dpo_train import dpo_train
from tasks.evaluate import evaluate
from tasks.generate_responses import generate_responses
from tasks.promote import promote
from tasks.record_round import record_round
from tasks.take_feedback import take_feedback
from tasks.validate_data import validate_data

STOPPED = "Stopped"
CONVERGED = "Converged"


@flow(name="dpo-round", flow_run_name="{directory.name}-round-{round:03d}")
def dpo_round(
    config: CampaignConfig,
    directory: Path,
    round: int,
    champion_round: int,
    start: Manifest,
    seed_pairs_digest: str | None,
) -> Any:
    """Run every stage of a round that is not already published, and record its outcome in campaign.json.

    Args:
        config: The campaign's configuration.
        directory: The campaign's directory.
        round: Index of the round, from 1.
        champion_round: Round of the champion that it starts from. The whole state may be too large: Prefect refuses
            parameters above 512 KiB.
        start: Manifest of round 0.
        seed_pairs_digest: Content digest of the data set that is round 1's data; None samples round 1 like any other.

    Returns:
        The round's record; a state named Stopped if the stop-file or the budget ended the work on it; one named Waiting
        if people have to vote first and no worker can resume the run when they have; one named Converged if the policy
        answers as its demonstrations do, so that there is nothing to train on and no record.
    """
    requests = Round(config, directory, round, champion_round, start, seed_pairs_digest)
    here = requests.directory
    try:
        with (
            # The campaign's tag stays on the round's run. On its tasks it would cost a second a round: before each task
            # Prefect asks its server for a concurrency limit of every tag.
            TagsContext(current_tags=set()),
            shown_on_page(here, config.tracking),
            progress.reporting_to(RoundLimits(here, config.budget)),
            progress.reporting_to(Suspension()),
        ):
            manifests = _stages_or_wait(requests)
            record = round_record(here, round, manifests, git_sha=git_sha())
            finish_round(directory, record)
            _warn_of_judges(directory)
            record_round(directory, round)
    except RoundStopped as stopped:
        return Cancelled(name=STOPPED, message=str(stopped))
    except RoundWaits as waits:
        return Cancelled(name=WAITING, message=str(waits))
    except Converged as converged:
        get_run_logger().warning("round %d is not trained: %s", round, converged)
        return Completed(name=CONVERGED, message=str(converged), data=str(converged))
    except Pause:
        until_answered(partial(show_as_suspended, UUID(str(flow_run.id))))
        raise
    emit_outcome(directory.name, record)
    return record


def _warn_of_judges(campaign: Path) -> None:
    state = read_state(campaign)
    assert state is not None, campaign
    for alarm in judge_alarms(state.rounds):
        get_run_logger().warning("%s", alarm)


def _stages_or_wait(requests: Round) -> dict[str, Manifest]:
    """Run the stages; if one waits for people, suspend the run that this round belongs to, or raise RoundWaits."""
    try:
        return _stages(requests)
    except RoundWaits as waits:
        wait_for_people(requests.campaign_directory, requests.number, str(waits))
        raise


def _stages(requests: Round) -> dict[str, Manifest]:
    """Run the stages in their order; a stage that the round does not need is left out of the result."""
    here, launcher = requests.directory, requests.config.launcher
    # Before anything else: a round that cannot have its data must cost nothing.
    taken = take_feedback(here, requests.take_feedback()) if requests.takes_feedback else None
    generated = generate_responses(here, requests.generate(), launcher=launcher) if requests.samples else None
    collected = collect_or_wait(here, requests.collect(generated, taken))
    refuse_if_converged(here, min_pairs=requests.config.validation.min_pairs)
    validated = validate_data(here, requests.validate(collected))
    trained = dpo_train(here, requests.train(validated), launcher=launcher)
    evaluated = evaluate(
        here,
        requests.evaluate(trained),
        num_processes=requests.config.generation.num_processes,
        launcher=launcher,
    )
    decided = promote(here, requests.promote(evaluated))
    manifests = [generated, collected, validated, trained, evaluated, decided]
    return {manifest.stage: manifest for manifest in manifests if manifest is not None}
