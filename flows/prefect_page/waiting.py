"""A round that waits for people, on the Prefect page: a suspended run, which holds no process and no place."""

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run

from components.campaign.stopping import refuse_if_stopped
from components.campaign.waiting import Waiting, end_waiting, write_waiting
from components.records import RoundStopped
from flows.prefect_page.outage import revive, until_answered

WAITING = "Waiting"
"""Name of the state of a run that waits for people, if no worker can resume it."""
STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""Environment variable in which Prefect names a deployment's run to its process; absent if a terminal started it."""
LEFT = (StateType.PAUSED, StateType.SCHEDULED, StateType.PENDING)
"""States of a run that is suspended, or resumed since in another process."""


def wait_for_people(campaign: Path, round: int, message: str) -> None:
    """Write down that a round waits, and suspend the campaign's run if a worker can resume it.

    If the Prefect server is away, this process waits for it: a run that ended now would never be resumed.

    Args:
        campaign: The campaign's directory.
        round: The round, whose flow run this is.
        message: How far people are, and where they vote.

    Raises:
        Pause: Prefect's signal, which makes the process exit.
        RoundStopped: The stop file came while the server was away.
    """
    get_run_logger().warning("%s", message)
    # Not asked of the server, which may be away.
    run = os.environ.get(STARTED_BY_WORKER)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_waiting(campaign, Waiting(round=round, message=message, flow_run=run, since=now))
    if run is None:
        return
    try:
        state = until_answered(partial(_suspend, UUID(run)), on_wait=partial(refuse_if_stopped, campaign))
    except RoundStopped:
        end_waiting(campaign)
        raise
    raise Pause(state=state)


def _suspend(run: UUID) -> State:
    """Suspend a run, unless an earlier call did whose answer was lost, and return its state."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
        if state is not None and state.type == StateType.CRASHED:
            revive(client, run)
        elif state is not None and state.type in LEFT:
            return state
    suspend_flow_run(flow_run_id=run)
    context = FlowRunContext.get()
    assert context is not None
    # Prefect keeps in this process what its server accepted: another process may go on with the run already.
    accepted = context.flow_run_suspension_request.get_state()
    assert accepted is not None, run
    return accepted
