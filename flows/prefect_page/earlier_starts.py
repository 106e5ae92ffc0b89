"""The campaign's earlier starts, as Prefect knows them.

One may have died, may be paused, or may have been running when this start was due.
"""

import logging
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed, Pending

from components.artifacts import write_bytes
from components.campaign.lock import CampaignBusy
from components.campaign.waiting import read_waiting

HOLDER = ".flow_run"
AUTO_SCHEDULED = "auto-scheduled"
PROCESS = "process"
FINAL = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
log = logging.getLogger(__name__)


def refuse_if_overtaken(campaign: str, before: dict[str, Any]) -> None:
    """Refuse a scheduled start that waited in the pool's queue while the campaign was running.

    Nobody asked for its rounds: they were due while those of another start ran.

    Args:
        campaign: The campaign's name.
        before: The lock's previous holder.

    Raises:
        CampaignBusy: The campaign was running when this start was due.
    """
    if AUTO_SCHEDULED not in flow_run.tags or not {"flow_run", "since", "until"} <= before.keys():
        return
    since, until = (datetime.fromisoformat(before[name]) for name in ("since", "until"))
    due = flow_run.scheduled_start_time
    if due is not None and since <= due <= until:
        raise CampaignBusy(
            f"campaign {campaign} was already running, from {before['since']} to {before['until']}, "
            "when this start was due"
        )


def take_over(directory: Path, flow_run_id: str) -> None:
    """Mark the campaign's previous flow run as crashed if it never ended, and record this one as its holder.

    Call it under the campaign's lock, which proves that the previous process is gone. A Prefect database that does not
    know the previous run does not stop this one: the state on disk is what counts.

    Raises:
        CampaignBusy: The previous run is paused: people have to vote first, or somebody must resume or cancel it.
        ValueError: The file of what a paused run waits for is damaged.
    """
    path = directory / HOLDER
    previous = path.read_text(errors="replace") if path.exists() else ""
    with get_client(sync_client=True) as client:
        if previous and previous != flow_run_id:
            known = _known(client, previous)
            if known is None:
                log.info("the previous flow run %s is not in this Prefect database", previous)
            else:
                _refuse_if_paused(directory, known)
                _end(client, known.id)
        _end_those_of_dead_processes(client)
    write_bytes(path, flow_run_id.encode())


def process_tag(pid: int) -> str | None:
    """Return the tag by which a flow run names its process; None if there is no such process.

    The process's start, in ticks since the machine's, tells it from a later one that got its number. Containers may
    share a machine's name and have numbers of their own, so the tag names the space of the numbers too.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{_here()}{pid}:{fields[19]}"


def _here() -> str:
    """Return the beginning of the tags of this machine's processes, as far as this one knows their numbers."""
    return f"{PROCESS}:{socket.gethostname()}:{os.stat('/proc/self/ns/pid').st_ino}:"


def own_process() -> list[str]:
    """Return the tags of a flow run that this process starts."""
    tag = process_tag(os.getpid())
    return [] if tag is None else [tag]


def _end_those_of_dead_processes(client: SyncPrefectClient) -> None:
    """Mark flow runs as crashed whose process on this machine is gone, of any campaign.

    Those that were killed before they held their campaign's lock left no other trace.
    """
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    here = _here()
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running)):
        tag = next((tag for tag in run.tags if tag.startswith(here)), None)
        if tag is not None and process_tag(int(tag.removeprefix(here).split(":")[0])) != tag:
            _end(client, run.id)


def _known(client: SyncPrefectClient, flow_run_id: str) -> FlowRun | None:
    """Return a flow run; None if the database does not have it, or the file that names it is damaged."""
    try:
        return client.read_flow_run(UUID(flow_run_id))
    except (ObjectNotFound, ValueError):
        return None


def _refuse_if_paused(directory: Path, run: FlowRun) -> None:
    if run.state is None or run.state.type != StateType.PAUSED:
        return
    waiting = read_waiting(directory)
    if waiting is not None and waiting.flow_run == str(run.id):
        raise CampaignBusy(f"{waiting.message}; its flow run {run.name} ({run.id}) then goes on by itself")
    raise CampaignBusy(
        f"campaign {directory.name} is waiting: its flow run {run.name} ({run.id}) is paused; "
        "resume or cancel it on its page"
    )


def _end(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    run = client.read_flow_run(flow_run_id)
    for child in client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    ):
        _end(client, child.id)
    dead: State = Crashed(message="its process ended unexpectedly; a later start of the campaign took over")
    for task_run in client.read_task_runs(
        task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))
    ):
        if not _is_final(task_run.state):
            client.set_task_run_state(task_run.id, dead, force=True)
    if not _is_final(run.state):
        client.set_flow_run_state(run.id, dead, force=True)


def show_as_suspended(flow_run_id: UUID) -> None:
    """Show a round whose process exits as pending, and its current task as cancelled.

    The resumed run continues the round. Prefect itself marks only the suspended run, and would show its subflow and
    that task as running for ever.
    """
    with get_client(sync_client=True) as client:
        ended: State = Cancelled(message="the run was suspended; the resumed run continues this stage")
        for task_run in client.read_task_runs(
            task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[flow_run_id]))
        ):
            if not _is_final(task_run.state):
                client.set_task_run_state(task_run.id, ended, force=True)
        # Prefect resumes only the run that somebody suspended, so a paused subflow could not start again.
        client.set_flow_run_state(flow_run_id, Pending(name="Suspended"), force=True)


def _is_final(state: State | None) -> bool:
    return state is not None and state.type in FINAL
