"""A round that waits for people, on the Prefect page: a suspended run, which holds no process and no place."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import flow_run

from components.campaign.waiting import Waiting, write_waiting

WAITING = "Waiting"
"""Name of the state of a run that waits for people, if no worker can resume it."""


def wait_for_people(campaign: Path, round: int, message: str) -> None:
    """Write down that a round waits, and suspend the campaign's run if a worker can resume it.

    Args:
        campaign: The campaign's directory.
        round: The round, whose flow run this is.
        message: How far people are, and where they vote.

    Raises:
        Pause: Prefect's signal, which makes the process exit.
    """
    get_run_logger().warning("%s", message)
    parent = UUID(str(flow_run.parent_flow_run_id))
    with get_client(sync_client=True) as client:
        deployed = client.read_flow_run(parent).deployment_id is not None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_waiting(
        campaign, Waiting(round=round, message=message, flow_run=str(parent) if deployed else None, since=now)
    )
    if deployed:
        suspend_flow_run(flow_run_id=parent)
        context = FlowRunContext.get()
        assert context is not None
        context.flow_run_suspension_request.raise_if_requested()
