"""Prefect runs whose process died: a start that holds the campaign's lock ends what the one before left RUNNING."""

import logging
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from components.artifacts import write_bytes

HOLDER = ".flow_run"
FINAL = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
log = logging.getLogger(__name__)


def adopt(directory: Path, flow_run_id: str) -> None:
    """Marks the campaign's previous flow run as crashed if it never ended, and remembers this one. Call under the campaign's lock.

    The lock proves that the previous process is gone. A Prefect database that does not know the run, or does not answer, is no
    reason to stop: the state on disk is what counts.
    """
    path = directory / HOLDER
    previous = path.read_text() if path.exists() else ""
    if previous and previous != flow_run_id:
        with get_client(sync_client=True) as client:
            try:
                _end(client, UUID(previous))
            except (ObjectNotFound, ValueError):
                log.info("the previous flow run %s is not in this Prefect database", previous)
    write_bytes(path, flow_run_id.encode())


def _end(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    run = client.read_flow_run(flow_run_id)
    for child in client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))):
        _end(client, child.id)
    dead: State = Crashed(message="its process ended without saying so; a later start of the campaign went on")
    for task_run in client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))):
        if not _is_final(task_run.state):
            client.set_task_run_state(task_run.id, dead, force=True)
    if not _is_final(run.state):
        client.set_flow_run_state(run.id, dead, force=True)


def _is_final(state: State | None) -> bool:
    return state is not None and state.type in FINAL
