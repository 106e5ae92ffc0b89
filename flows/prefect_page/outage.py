"""A Prefect server that was away takes living runs for dead, and gives their places in the work pool to others.

Its automation marks a run as crashed that sent no heartbeat, also when there was no server to send it to. So a run sets
its own state right, and a place on the machine, which the kernel keeps, holds a second training off until then.
"""

import contextlib
import contextvars
import fcntl
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Running

from components.runtime.printable import one_line

PLACES = ".places"
"""Directory in the directory of campaigns."""
LOOK_SECONDS = 10.0
ASK_SECONDS = 2.0
Answer = TypeVar("Answer")
log = logging.getLogger(__name__)


@contextlib.contextmanager
def holding_place(runs: Path, limit: int | None, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold one of this machine's places for runs of a work pool; wait until one is free.

    Args:
        runs: Directory of the campaigns.
        limit: The pool's limit of runs; None holds no place.
        on_wait: Called again and again while all places are taken; an error that it raises ends the waiting.
    """
    if limit is None:
        yield
        return
    (runs / PLACES).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        names = [f"{socket.gethostname()}-{number}" for number in range(limit)]
        files = [opened.enter_context((runs / PLACES / name).open("a")) for name in names]
        told = False
        while not any(_is_free(file.fileno()) for file in files):
            on_wait()
            if not told:
                log.warning("waiting: this machine already runs all %d starts that the work pool allows", limit)
            told = True
            time.sleep(LOOK_SECONDS)
        yield


def _is_free(descriptor: int) -> bool:
    """Take a place, if nobody has it; the kernel gives it back when the process ends, however it ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def pool_limit() -> int | None:
    """Return the limit of the work pool that this flow run came from; None if a terminal started it."""
    from prefect.runtime import deployment

    if deployment.id is None:
        return None
    with get_client(sync_client=True) as client:
        pool = client.read_flow_run(UUID(str(flow_run.id))).work_pool_name
        return client.read_work_pool(pool).concurrency_limit if pool else None


def until_answered(ask: Callable[[], Answer], *, on_wait: Callable[[], None] = lambda: None) -> Answer:
    """Ask the Prefect server again and again until it answers, and return the answer.

    Args:
        ask: Asks it; may be called again although an earlier call has reached the server and its answer was lost.
        on_wait: Called while the server is away; an error that it raises ends the waiting.
    """
    told = False
    while True:
        try:
            return ask()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
                raise
            on_wait()
            if not told:
                log.warning("waiting for the Prefect server, which does not answer: %s", one_line(str(error)))
            told = True
            time.sleep(ASK_SECONDS)


@contextlib.contextmanager
def shown_as_running() -> Iterator[None]:
    """Set this flow run and its rounds back to running within the block if the server takes them for dead."""
    own, ended = UUID(str(flow_run.id)), threading.Event()
    thread = threading.Thread(target=contextvars.copy_context().run, args=[_watch, own, ended], daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=LOOK_SECONDS)


def _watch(own: UUID, ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        try:
            with get_client(sync_client=True) as client:
                if _is_crashed(client, own):
                    revive(client, own)
        except Exception as error:  # whatever Prefect's client raises while its server is away
            log.debug("the state of this run was not checked: %s", error)


def _is_crashed(client: SyncPrefectClient, run: UUID) -> bool:
    state = client.read_flow_run(run).state
    return state is not None and state.type == StateType.CRASHED


def revive(client: SyncPrefectClient, own: UUID) -> None:
    """Show a run and its rounds as running that the server took for dead while it was away."""
    children = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[own]))
    )
    crashed = [child.id for child in children if child.state is not None and child.state.type == StateType.CRASHED]
    for run in (own, *crashed):
        client.set_flow_run_state(run, Running(message="its process lives; the Prefect server was away"), force=True)
    log.warning("Prefect took this run for dead, because its server was away; it is shown as running again")
