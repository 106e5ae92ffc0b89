"""A Prefect server that was away: living runs are not taken for dead, and no second training begins beside them."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from components.records import RoundStopped
from flows.prefect_page import outage
from flows.prefect_page.outage import holding_place


def hold(runs: Path, limit: int, taken: Any, let_go: Any) -> None:
    with holding_place(runs, limit, on_wait=lambda: None):
        taken.set()
        let_go.wait(60)


class Waited(Exception):
    """The place is taken."""


def waited() -> None:
    raise Waited


def test_place_of_a_process_that_was_killed_is_free_again_and_one_of_a_living_process_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect gave the only place of the pool away, and two trainings met on one GPU."""
    monkeypatch.setattr(outage, "LOOK_SECONDS", 0.1)
    context = multiprocessing.get_context("spawn")
    taken, let_go = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path, 1, taken, let_go))
    holder.start()
    assert taken.wait(60)
    with pytest.raises(Waited), holding_place(tmp_path, 1, on_wait=waited):
        pass
    with holding_place(tmp_path, 2, on_wait=waited), pytest.raises(Waited), holding_place(tmp_path, 2, on_wait=waited):
        pass
    with holding_place(tmp_path, None, on_wait=waited):
        pass
    holder.kill()
    holder.join()
    with holding_place(tmp_path, 1, on_wait=lambda: time.sleep(0)):
        pass


def test_start_that_waits_for_a_place_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise RoundStopped("the campaign was stopped by the file STOP")

    with (
        holding_place(tmp_path, 1, on_wait=stop),
        pytest.raises(RoundStopped),
        holding_place(tmp_path, 1, on_wait=stop),
    ):
        pass


@pytest.mark.usefixtures("prefect_session")
def test_run_that_the_server_takes_for_dead_is_shown_as_running_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.states import Crashed

    monkeypatch.setattr(outage, "LOOK_SECONDS", 0.2)
    seen: list[list[str]] = []

    def states(*runs: str) -> list[str]:
        with get_client(sync_client=True) as client:
            return [str(client.read_flow_run(run).state_name) for run in runs]  # type: ignore[arg-type]

    @flow
    def inner(outer: str) -> None:
        own = str(flow_run.id)
        with get_client(sync_client=True) as client:
            for run in (outer, own):
                client.set_flow_run_state(run, Crashed(message="no heartbeat"), force=True)  # type: ignore[arg-type]
        deadline = time.monotonic() + 60
        while states(outer, own) != ["Running", "Running"] and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.append(states(outer, own))

    @flow
    def outer() -> str:
        with outage.shown_as_running():
            inner(str(flow_run.id))
        return str(flow_run.id)

    assert states(outer()) == ["Completed"]
    assert seen == [["Running", "Running"]]
