"""A campaign: lock it, pin it, run rounds until its target. Computes nothing itself."""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, tags
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from components.campaign import (
    CampaignBusy,
    Champion,
    State,
    campaign_directory,
    locked,
    model_of_round,
    open_target,
    pin_config,
    read_state,
    write_state,
)
from components.config import CampaignConfig
from components.preflight import check_inputs
from components.records import RoundStopped
from components.report.campaign import write_report
from components.stopping import refuse_if_stopped
from flows.dpo_round import STOPPED, dpo_round
from flows.earlier_starts import adopt, refuse_if_overtaken
from tasks.record_round import ship_to_mlflow
from tasks.start_campaign import start_campaign

SKIPPED = "Skipped"


def run_name() -> str:
    """Names a run after the campaign of its parameters, which a form may leave to its preset."""
    parameters = flow_run.parameters or {}
    config, what = parameters.get("config"), parameters.get("what")
    if config is not None:
        return str(config.campaign)
    assert what is not None, parameters
    return str(what.campaign or Path(what.config_file).stem or what.preset)


@flow(name="iterative-dpo", flow_run_name=run_name)
def iterative_dpo(config: CampaignConfig, accept_changes: bool = False) -> Any:
    """Adds `num_rounds` rounds to a campaign, or finishes what an earlier start left open.

    Args:
        config: The campaign's configuration.
        accept_changes: Go on with a configuration that differs from the one the campaign began with.

    Returns:
        The campaign's state as a dict; a state named Skipped when another run works on the campaign or waits to go on with it; one
        named Stopped when the stop-file or a round's budget ended the work.

    Raises:
        ValueError: The user's input is wrong; nothing was written.
        DataRejected: A round's data broke a gate of the validation.
        JudgeUnavailable: The judge gave no usable verdicts.
        StageFailed: A stage failed; the same start goes on from there.
    """
    return add_rounds(config, accept_changes=accept_changes)


def add_rounds(config: CampaignConfig, *, accept_changes: bool) -> Any:
    """What every start of a campaign does, from the command line, a schedule or the Prefect page; see `iterative_dpo`."""
    directory = campaign_directory(config.campaign)
    inputs = check_inputs(config)
    try:
        refuse_if_stopped(directory)
        with locked(directory, flow_run=str(flow_run.id)) as before, tags(f"campaign:{config.campaign}"):
            refuse_if_overtaken(config.campaign, before)
            adopt(directory, str(flow_run.id))
            pin_config(directory, config, accept_changes=accept_changes)
            start = start_campaign(config, inputs.prompts_digest, directory / "round-000")
            state = _state_with_target(directory, config)
            _ship_what_mlflow_missed(directory, state)
            while state.target is not None and state.last_round < state.target:
                dpo_round(config, directory, state.last_round + 1, state.champion.round, start, inputs.seed_pairs_digest)
                state = _read(directory)
            state = _closed(directory)
            write_report(directory)
            return state.model_dump(mode="json")
    except CampaignBusy as busy:
        get_run_logger().warning("%s", busy)
        return Completed(name=SKIPPED, message=str(busy))
    except (RoundStopped, CancelledRun) as stopped:
        get_run_logger().warning("%s", stopped)
        return Cancelled(name=STOPPED, message=str(stopped))


def _state_with_target(directory: Path, config: CampaignConfig) -> State:
    start = model_of_round(directory, 0)
    state = read_state(directory)
    if state is None:
        state = State(campaign=config.campaign, champion=Champion(round=0, digest=start.digest))
    state = state.model_copy(update={"target": open_target(state, config.num_rounds)})
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
    for record in state.rounds:
        if record.mlflow_run_id is None:
            ship_to_mlflow(directory, record.round)
