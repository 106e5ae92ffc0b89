"""A campaign: lock it, pin its config, run rounds until its target. Computes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import flow, get_run_logger, tags
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from components.artifacts import read_json
from components.campaign.config import pin_config, refuse_changes, with_former_defaults
from components.campaign.known_digests import KNOWN, KnownDigests
from components.campaign.lock import CampaignBusy, locked
from components.campaign.models import model_of_round
from components.campaign.state import (
    Champion,
    State,
    accept_audits,
    campaign_directory,
    has_reached,
    open_target,
    read_state,
    refuse_if_doubted,
    start_directory,
    write_state,
)
from components.campaign.stopping import refuse_if_stopped
from components.campaign.waiting import end_waiting, read_waiting
from components.config import CampaignConfig
from components.feedback.waiting import feedback_shortage
from components.history.lineage import check_published
from components.records import NothingToLearn, RoundStopped
from components.report.wording import start_remedies
from components.runtime.stage_log import logged_to
from components.start.pins import CheckedStart, check_start
from components.start.preflight import check_revisions
from flows.dpo_round import STOPPED, dpo_round
from flows.prefect_page.deployed import refuse_runs_that_vanish
from flows.prefect_page.earlier_starts import refuse_if_overtaken, take_over
from flows.prefect_page.logs import logs_on_page
from flows.prefect_page.outage import holding_place, pool_limit, shown_as_running
from flows.prefect_page.waiting import WAITING
from flows.requests import start_request
from flows.trained_start import trained_start
from tasks.record_round import refuse_taken_name, ship_to_mlflow
from tasks.show_campaign import show_campaign
from tasks.stages import errors_kept_in
from tasks.start_campaign import start_campaign

SKIPPED = "Skipped"
LOG_FILE = "campaign.log"


def rounds_name(config: CampaignConfig, until: int | None = None) -> str:
    """Return the name of a start: its campaign and the rounds that it runs."""
    state = read_state(campaign_directory(config.campaign)) or _new_state(config, "")
    first, last = state.last_round + 1, open_target(state, config.num_rounds, until)
    return (
        f"{config.campaign}-round-{first:03d}" if first >= last else f"{config.campaign}-rounds-{first:03d}-{last:03d}"
    )


def _run_name() -> str:
    return rounds_name(flow_run.parameters["config"], flow_run.parameters.get("until"))


@flow(name="iterative-dpo", flow_run_name=_run_name)
def iterative_dpo(
    config: CampaignConfig, accept_changes: bool = False, until: int | None = None, accept_audit: bool = False
) -> Any:
    """Add `num_rounds` rounds to a campaign, or finish what an earlier start left open.

    Args:
        config: The campaign's configuration.
        accept_changes: Continue with a configuration or inputs that differ from those the campaign began with.
        until: Last round that the campaign shall have, in place of `num_rounds`: a start that finds it does nothing.
        accept_audit: Continue although an audit contradicts the campaign's promotions.

    Returns:
        The campaign's state as a dict. If another run of the campaign is running or paused, or if users gave too few
        thumbs for a round, a state named Skipped. If the stop-file or a round's budget ended the work, a state named
        Stopped; if people have to vote first and no worker can resume the run when they have, one named Waiting.

    Raises:
        ValueError: The user's input is wrong; nothing was written.
        DataRejected: A round's data did not pass a gate of the validation.
        JudgeUnavailable: The judge gave no usable verdicts.
        StageFailed: A stage failed; starting again continues from there.
        ChampionDoubted: An audit contradicts the campaign's promotions.
    """
    return add_rounds(config, accept_changes=accept_changes, until=until, accept_audit=accept_audit)


def add_rounds(config: CampaignConfig, *, accept_changes: bool, until: int | None, accept_audit: bool) -> Any:
    """Run a start of a campaign from the command line, a schedule or the Prefect page; see `iterative_dpo`."""
    refuse_runs_that_vanish()
    directory = campaign_directory(config.campaign)
    config = with_former_defaults(directory, config)
    is_done = has_reached(read_state(directory), until)
    checked = None if is_done else _checked(directory, config, accept_changes=accept_changes)
    try:
        refuse_if_stopped(directory)
        with (
            locked(directory, flow_run=str(flow_run.id)) as before,
            logged_to(directory / LOG_FILE),
            errors_kept_in(directory / LOG_FILE, config.tracking),
        ):
            with logs_on_page(config.tracking):
                refuse_if_overtaken(config.campaign, before)
                take_over(directory, str(flow_run.id))
                end_waiting(directory)
                if accept_audit:
                    accept_audits(directory)
                refuse_if_doubted(read_state(directory))
                if checked is not None:
                    with _closing_if_nothing_to_learn(directory):
                        _go_on(directory, config, checked, accept_changes=accept_changes, until=until)
            # Last of all: a start that fails behind the last round, in the report too, must not add rounds when the
            # same command is given again.
            return (_closed(directory) if checked is not None else _read(directory)).model_dump(mode="json")
    except CampaignBusy as busy:
        get_run_logger().warning("%s", busy)
        return Completed(name=SKIPPED, message=str(busy))
    except NothingToLearn as nothing:
        get_run_logger().warning("%s", nothing)
        return Completed(name=SKIPPED, message=str(nothing))
    except (RoundStopped, CancelledRun) as stopped:
        waiting = read_waiting(directory) if isinstance(stopped, CancelledRun) else None
        if waiting is not None:
            return Cancelled(name=WAITING, message=waiting.message)
        get_run_logger().warning("%s", stopped)
        return Cancelled(name=STOPPED, message=str(stopped))


def _go_on(
    directory: Path, config: CampaignConfig, checked: CheckedStart, *, accept_changes: bool, until: int | None
) -> None:
    """Run the start's rounds and show them, one start at a time for each place of this machine."""
    place = holding_place(directory.parent, pool_limit(), on_wait=partial(refuse_if_stopped, directory))
    with shown_as_running(), place:
        pin_config(directory, config, accept_changes=accept_changes)
        show_campaign(directory, _run_rounds(directory, checked, until, accept_changes=accept_changes))
        refuse_if_doubted(_read(directory))


def _checked(directory: Path, config: CampaignConfig, *, accept_changes: bool) -> CheckedStart:
    """Check the inputs and the published files, and return what the rounds work with."""
    if not accept_changes:
        refuse_changes(directory, config)
    try:
        return _checked_inputs(directory, config, accept_changes=accept_changes)
    except ValueError:  # it may quote a prompt
        if config.tracking.texts:
            raise
    raise ValueError("the inputs are refused; `ratchet run` says why, and not this page, since tracking.texts is false")


def _checked_inputs(directory: Path, config: CampaignConfig, *, accept_changes: bool) -> CheckedStart:
    known = KnownDigests(directory / KNOWN)
    checked = check_start(directory, config, accept_changes=accept_changes, known=known)
    for line in check_published(directory, accept_changes=accept_changes, known=known):
        get_run_logger().warning("%s", line)
    known.keep()
    for line in checked.accepted:
        get_run_logger().warning("accepted, and pinned anew: %s", line)
    for doubt in config.training.doubts:
        get_run_logger().warning("%s", doubt)
    return checked


def _run_rounds(directory: Path, checked: CheckedStart, until: int | None, *, accept_changes: bool) -> State:
    """Publish round 0, if that is not done, and run the rounds of the start; return the campaign's state."""
    config, inputs = checked.config, checked.inputs
    state = read_state(directory)
    last_round = 0 if state is None else state.last_round
    sft, pins = trained_start(directory, checked, accept_changes=accept_changes)
    start = start_campaign(
        directory,
        start_request(config, inputs.prompts_digest, pins, sft=sft, demonstrations=inputs.demonstrations),
        last_round=last_round,
        anew=bool(checked.accepted),
    )
    pinned = read_json(start_directory(directory) / "start.json")
    check_revisions(config.preferences, pinned.get("unrenderable"))
    for line in start_remedies(pinned.get("measured"), max_unfinished_share=config.gate.max_unfinished_share):
        get_run_logger().warning("%s", line)
    state = _state_with_target(directory, config, until)
    if not state.rounds:
        refuse_taken_name(directory)
    _ship_what_mlflow_missed(directory, state)
    while state.target is not None and state.last_round < state.target and state.doubt is None:
        number = state.last_round + 1
        shortage = feedback_shortage(directory, config, number)
        if shortage is not None and number == last_round + 1:
            raise NothingToLearn(f"round {number} of {config.campaign} is not begun: {shortage}")
        if shortage is not None:
            get_run_logger().warning("round %d is not begun: %s", number, shortage)
            break
        with tags(f"campaign:{config.campaign}"):
            dpo_round(config, directory, number, state.champion.round, start, inputs.seed_pairs_digest)
        state = _read(directory)
        if state.last_round < number:  # it has converged, and said so
            break
    return state


@contextmanager
def _closing_if_nothing_to_learn(directory: Path) -> Iterator[None]:
    """Close the start's target if there are too few thumbs for its first round: the next start has its own target."""
    try:
        yield
    except NothingToLearn:
        _closed(directory)
        raise


def _state_with_target(directory: Path, config: CampaignConfig, until: int | None) -> State:
    start = model_of_round(directory, 0)
    state = read_state(directory) or _new_state(config, start.digest)
    if state.champion.round == 0:  # the start model may be another one until a round is finished
        state = state.model_copy(update={"champion": Champion(round=0, digest=start.digest)})
    target = open_target(state, config.num_rounds, until)
    state = state.model_copy(update={"id": state.id or uuid4().hex, "target": target})
    write_state(directory, state)
    return state


def _new_state(config: CampaignConfig, digest: str) -> State:
    return State(campaign=config.campaign, champion=Champion(round=0, digest=digest))


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
