"""A campaign: lock it, pin its config, run rounds until its target. Computes nothing."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow, get_run_logger, tags
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from components.artifacts import read_json
from components.campaign.config import pin_config, with_former_defaults
from components.campaign.lock import CampaignBusy, locked
from components.campaign.models import model_of_round
from components.campaign.state import (
    Champion,
    State,
    campaign_directory,
    open_target,
    read_state,
    round_directory,
    write_state,
)
from components.campaign.stopping import refuse_if_stopped
from components.config import CampaignConfig
from components.records import RoundStopped
from components.report.wording import start_remedies
from components.runtime.stage_log import logged_to
from components.start.preflight import Inputs, check_inputs, check_revisions
from flows.dpo_round import STOPPED, dpo_round
from flows.prefect_page.deployed import refuse_runs_that_vanish
from flows.prefect_page.earlier_starts import refuse_if_overtaken, take_over
from flows.prefect_page.logs import logs_on_page
from flows.requests import start_request
from tasks.record_round import refuse_taken_name, ship_to_mlflow
from tasks.show_campaign import show_campaign
from tasks.stages import errors_kept_in
from tasks.start_campaign import start_campaign

SKIPPED = "Skipped"
LOG_FILE = "campaign.log"


def rounds_name(config: CampaignConfig) -> str:
    """Return the name of a start: its campaign and the rounds that it runs."""
    state = read_state(campaign_directory(config.campaign))
    first = 1 if state is None else state.last_round + 1
    last = first + config.num_rounds - 1 if state is None else open_target(state, config.num_rounds)
    return (
        f"{config.campaign}-round-{first:03d}" if first >= last else f"{config.campaign}-rounds-{first:03d}-{last:03d}"
    )


def _run_name() -> str:
    return rounds_name(flow_run.parameters["config"])


@flow(name="iterative-dpo", flow_run_name=_run_name)
def iterative_dpo(config: CampaignConfig, accept_changes: bool = False) -> Any:
    """Add `num_rounds` rounds to a campaign, or finish what an earlier start left open.

    Args:
        config: The campaign's configuration.
        accept_changes: Continue with a configuration that differs from the one the campaign began with.

    Returns:
        The campaign's state as a dict. If another run of the campaign is running or paused, a state named Skipped. If
        the stop-file or a round's budget ended the work, a state named Stopped.

    Raises:
        ValueError: The user's input is wrong; nothing was written.
        DataRejected: A round's data did not pass a gate of the validation.
        JudgeUnavailable: The judge gave no usable verdicts.
        StageFailed: A stage failed; starting again continues from there.
    """
    return add_rounds(config, accept_changes=accept_changes)


def add_rounds(config: CampaignConfig, *, accept_changes: bool) -> Any:
    """Run a start of a campaign from the command line, a schedule or the Prefect page; see `iterative_dpo`."""
    refuse_runs_that_vanish()
    directory = campaign_directory(config.campaign)
    config = with_former_defaults(directory, config)
    inputs = _checked(config)
    for doubt in config.training.doubts:
        get_run_logger().warning("%s", doubt)
    try:
        refuse_if_stopped(directory)
        with (
            logs_on_page(config.tracking),
            locked(directory, flow_run=str(flow_run.id)) as before,
            logged_to(directory / LOG_FILE),
            errors_kept_in(directory / LOG_FILE, config.tracking),
        ):
            refuse_if_overtaken(config.campaign, before)
            take_over(directory, str(flow_run.id))
            pin_config(directory, config, accept_changes=accept_changes)
            start = start_campaign(round_directory(directory, 0), start_request(config, inputs.prompts_digest))
            pinned = read_json(round_directory(directory, 0) / "start" / "start.json")
            check_revisions(config.preferences, pinned.get("unrenderable"))
            for line in start_remedies(pinned.get("measured"), max_unfinished_share=config.gate.max_unfinished_share):
                get_run_logger().warning("%s", line)
            state = _state_with_target(directory, config)
            if not state.rounds:
                refuse_taken_name(directory)
            _ship_what_mlflow_missed(directory, state)
            while state.target is not None and state.last_round < state.target:
                with tags(f"campaign:{config.campaign}"):
                    dpo_round(
                        config, directory, state.last_round + 1, state.champion.round, start, inputs.seed_pairs_digest
                    )
                state = _read(directory)
            state = _closed(directory)
            show_campaign(directory, state)
            return state.model_dump(mode="json")
    except CampaignBusy as busy:
        get_run_logger().warning("%s", busy)
        return Completed(name=SKIPPED, message=str(busy))
    except (RoundStopped, CancelledRun) as stopped:
        get_run_logger().warning("%s", stopped)
        return Cancelled(name=STOPPED, message=str(stopped))


def _checked(config: CampaignConfig) -> Inputs:
    try:
        return check_inputs(config)
    except ValueError:  # it may quote a prompt
        if config.tracking.texts:
            raise
    raise ValueError("the inputs are refused; `ratchet run` says why, and not this page, since tracking.texts is false")


def _state_with_target(directory: Path, config: CampaignConfig) -> State:
    start = model_of_round(directory, 0)
    state = read_state(directory)
    if state is None:
        state = State(campaign=config.campaign, champion=Champion(round=0, digest=start.digest))
    state = state.model_copy(update={"id": state.id or uuid4().hex, "target": open_target(state, config.num_rounds)})
    write_state(directory, state)
    return state


def _read(directory: Path) -> State:
    state = read_state(directory)
    assert state is not None, directory
    return state


def _closed(directory: Path) -> State:
    state = _read(directory).model_copy(update={"target": None})
    write_state(directory, state)
    return state


def _ship_what_mlflow_missed(directory: Path, state: State) -> None:
    missed = [record.round for record in state.rounds if record.mlflow_run_id is None]
    for round in missed:
        if ship_to_mlflow(directory, round) is not None:
            return  # wait for an unavailable server once, not once per round
