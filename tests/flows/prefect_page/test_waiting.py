"""A round that begins to wait for people while the Prefect server is away: its run is suspended once it is back."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from components.campaign.waiting import read_waiting
from components.records import RoundStopped
from flows.prefect_page import outage
from tests.flows.prefect_page.gate import Gate, gate_before

pytestmark = pytest.mark.usefixtures("prefect_session")
AWAY_SECONDS = 2.0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate before the Prefect server, whose address the clients of the test know."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    monkeypatch.setattr(outage, "ASK_SECONDS", 0.1)
    port = urlsplit(str(PREFECT_API_URL.value())).port
    assert port is not None
    # Once, since a busy server may refuse a request. More often, and what Prefect logs behind the test's end would be
    # sent to the closed gate again and again, for minutes.
    settings: dict[Any, Any] = {PREFECT_CLIENT_MAX_RETRIES: 1}
    with gate_before(port) as gate:
        settings[PREFECT_API_URL] = f"http://127.0.0.1:{gate.port}/api"
        with temporary_settings(settings):
            yield gate


Waits = Callable[[Path, Callable[[], None]], Any]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """A function that runs a deployment whose round waits for people, and returns its flow run's id."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow
    from prefect.runtime import flow_run
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows.prefect_page.earlier_starts import show_as_suspended
    from flows.prefect_page.waiting import STARTED_BY_WORKER, wait_for_people

    def run(campaign: Path, before: Callable[[], None]) -> Any:
        @flow(name="dpo-round")
        def round() -> None:
            # Only here: a busy server may refuse what comes before, and Prefect then asks again.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                before()
                try:
                    wait_for_people(campaign, 1, "round 1 waits")
                except Pause:
                    outage.until_answered(lambda: show_as_suspended(flow_run.id))
                    raise

        @flow(name="iterative-dpo")
        def start() -> None:
            round()

        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(client.create_flow(start), name=campaign.name)
            known = client.create_flow_run_from_deployment(deployment)
        monkeypatch.setenv(STARTED_BY_WORKER, str(known.id))
        with pytest.raises(Pause):
            run_flow(start, flow_run=known)
        return known.id

    return run


def states(run: Any) -> list[str]:
    """Return the names of the states of a run and of its round."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    with get_client(sync_client=True) as client:
        within = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run]))
        runs = [client.read_flow_run(run), *client.read_flow_runs(flow_run_filter=within)]
    return [str(each.state_name) for each in runs]


def away(gate: Gate) -> None:
    """Close the gate, for a while."""
    gate.close()
    threading.Timer(AWAY_SECONDS, gate.open).start()


def test_round_is_suspended_once_the_server_that_was_away_is_back(tmp_path: Path, gate: Gate, waits: Waits) -> None:
    started = time.monotonic()
    run = waits(tmp_path, lambda: away(gate))
    assert time.monotonic() - started >= AWAY_SECONDS
    assert states(run) == ["Suspended", "Suspended"]
    waiting = read_waiting(tmp_path)
    assert waiting is not None
    assert waiting.flow_run == str(run)


def test_suspension_whose_answer_was_lost_is_one_suspension(tmp_path: Path, gate: Gate, waits: Waits) -> None:
    lost: list[bool] = []

    def open_again() -> None:
        while gate.is_open:
            time.sleep(0.05)
        lost.append(True)
        time.sleep(AWAY_SECONDS)
        gate.open()

    def lose_the_answer() -> None:
        gate.close()
        gate.open(loses='"name":"Suspended"')
        threading.Thread(target=open_again, daemon=True).start()

    run = waits(tmp_path, lose_the_answer)
    assert lost == [True]
    assert states(run) == ["Suspended", "Suspended"]


def test_run_that_the_server_took_for_dead_while_it_was_away_is_suspended(
    tmp_path: Path, gate: Gate, waits: Waits
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.states import Crashed

    def taken_for_dead() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(
                flow_run.parent_flow_run_id,  # type: ignore[arg-type]
                Crashed(message="no heartbeat"),
                force=True,
            )

    assert states(waits(tmp_path, taken_for_dead)) == ["Suspended", "Suspended"]


def test_stop_file_ends_the_wait_for_a_server_and_nothing_waits_for_people_any_more(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows.prefect_page.waiting import STARTED_BY_WORKER, wait_for_people

    monkeypatch.setenv(STARTED_BY_WORKER, str(uuid4()))
    waiting: list[Any] = []

    @flow
    def round() -> None:
        gate.close()
        (tmp_path / "STOP").touch()
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            pytest.raises(RoundStopped, match="was stopped by the file"),
        ):
            wait_for_people(tmp_path, 1, "round 1 waits")
        waiting.append(read_waiting(tmp_path))
        gate.open()

    round()
    assert waiting == [None]


def test_wait_for_a_server_that_is_away_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    monkeypatch.setattr(outage, "ASK_SECONDS", 0.0)

    def refused() -> None:
        raise httpx.ConnectError("connection refused")

    def stop() -> None:
        raise RoundStopped("the campaign was stopped by the file STOP")

    with pytest.raises(RoundStopped):
        outage.until_answered(refused, on_wait=stop)
