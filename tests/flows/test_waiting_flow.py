"""A round that waits for people, started from a terminal: the same command goes on when they have voted."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from components.artifacts import read_json, write_json
from components.campaign.state import known_state
from components.campaign.waiting import Waiting, read_waiting, write_waiting
from components.config import CampaignConfig
from components.labelling.task import LABELLING, VOTES, Vote, Votes, read_task, write_task
from tests.labelling.tasks import make_task

Make = Callable[..., CampaignConfig]
PEOPLE = {"budget": 4, "judge": {"kind": "people", "people": {"overlap_share": 0.0}}}


def start(config: CampaignConfig) -> Any:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, return_state=True)


def vote_on_all(campaign: Path) -> None:
    (path,) = (campaign / LABELLING).glob("*/task.json")
    task = read_task(path.parent)
    given: dict[str, Any] = {"annotator": "anna", "choice": "first", "shown_left": "second", "seconds": 3.0}
    votes = tuple(
        Vote(vote_id=item.item_id, item_id=item.item_id, at=task.created_at, flag=None, **given) for item in task.items
    )
    write_json(path.parent / VOTES, Votes(task=task.task, closed="quota", closed_at=task.created_at, votes=votes))


@pytest.mark.usefixtures("prefect_session")
def test_round_waits_for_people_and_the_next_start_finishes_it_without_repeating_a_stage(
    runs: Path, make_config: Make
) -> None:
    config = make_config(active=PEOPLE)
    waiting = start(config)
    assert waiting.name == "Waiting"
    assert "round 1 of campaign small waits for people to vote on 4 of 4 pairs" in waiting.message
    known = read_waiting(runs / "small")
    assert known is not None
    assert (known.round, known.flow_run) == (1, None), "no worker could resume a run of a terminal"
    assert start(config).name == "Waiting"
    generated = (runs / "small" / "round-001" / "generate_responses" / "MANIFEST.json").stat().st_mtime_ns
    vote_on_all(runs / "small")
    assert start(config).is_completed()
    assert (runs / "small" / "round-001" / "generate_responses" / "MANIFEST.json").stat().st_mtime_ns == generated
    assert read_waiting(runs / "small") is None
    (record,) = known_state("small").rounds
    assert record.people is not None
    assert record.people.labelled == 4
    assert read_json(runs / "small" / "round-001" / "collect_preferences" / "collect.json")["active"]["asked"] == 4


@pytest.mark.usefixtures("prefect_session")
def test_quota_that_is_lowered_while_the_round_waits_is_taken_without_accepting_changes(
    runs: Path, make_config: Make
) -> None:
    assert start(make_config(active=PEOPLE)).name == "Waiting"
    people = PEOPLE["judge"] | {"people": {"overlap_share": 0.0, "quota": 0.5}}  # type: ignore[operator]
    again = start(make_config(active=PEOPLE | {"judge": people}))
    assert "2 of 4 pairs" in again.message


@pytest.mark.usefixtures("prefect_session")
def test_status_says_what_the_campaign_waits_for_and_when_it_can_go_on(
    runs: Path, make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.commands.look import status

    start(make_config(active=PEOPLE))
    status("small")
    assert "round 1 of campaign small waits for people to vote on 4 of 4 pairs" in capsys.readouterr().out
    vote_on_all(runs / "small")
    status("small")
    assert "people have voted: round 1 can go on" in capsys.readouterr().out


@pytest.mark.usefixtures("prefect_session")
@pytest.mark.parametrize("damaged", ["waiting.json", "task.json", "votes.json"])
def test_damaged_file_of_one_campaign_keeps_no_other_from_going_on(runs: Path, damaged: str, told: list[str]) -> None:
    names = ("a", "b", "c")
    flow_runs = {name: suspended(runs / name) for name in names}
    broken = {path.name: path for path in (runs / "a").rglob("*.json")}[damaged]
    broken.write_text('{"cut')
    waiting = waiting_rounds(runs)
    waiting.look()
    waiting.look()
    assert [state_of(flow_runs[name]) for name in names] == ["Suspended", "Resuming", "Resuming"]
    assert told
    of_broken = [line for line in told if f"{broken} is damaged" in line]
    assert of_broken
    assert len(told) == len(set(told)), "not at every look"


@pytest.mark.usefixtures("prefect_session")
def test_damaged_file_of_a_paused_run_is_told_and_its_run_is_not_taken_over(runs: Path) -> None:
    from flows.prefect_page.earlier_starts import HOLDER, take_over

    run = suspended(runs / "a")
    (runs / "a" / HOLDER).write_text(str(run))
    (runs / "a" / "waiting.json").write_text('{"cut')
    with pytest.raises(ValueError, match=r"waiting\.json is damaged"):
        take_over(runs / "a", str(uuid4()))
    assert state_of(run) == "Suspended"


@pytest.mark.usefixtures("prefect_session")
def test_run_that_somebody_cancelled_or_deleted_keeps_no_other_from_going_on(runs: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    gone, cancelled, kept = (suspended(runs / name) for name in ("a", "b", "c"))
    with get_client(sync_client=True) as client:
        client.delete_flow_run(gone)
        client.set_flow_run_state(cancelled, Cancelled(), force=True)
    waiting_rounds(runs).look()
    assert [state_of(cancelled), state_of(kept)] == ["Cancelled", "Resuming"]


@pytest.mark.usefixtures("prefect_session")
def test_run_that_prefect_does_not_resume_is_told_and_is_not_said_to_go_on(runs: Path, told: list[str]) -> None:
    run = suspended(runs / "a", is_deployed=False)
    waiting = waiting_rounds(runs)
    waiting.look()
    waiting.look()
    assert state_of(run) == "Suspended"
    assert ["cancel it, and start the campaign again" in line for line in told] == [True]


@pytest.fixture
def told(prefect_session: None) -> Iterator[list[str]]:
    """What the looks write into the log; Prefect sets the handlers of all logs itself."""
    from flows.prefect_page.continuing import log

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def suspended(campaign: Path, *, is_deployed: bool = True) -> Any:
    """Write what a campaign leaves whose people have voted, and return its suspended flow run."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Suspended

    with get_client(sync_client=True) as client:
        known, state = flow(name="iterative-dpo")(lambda: None), Suspended(timeout_seconds=None)
        if is_deployed:
            deployment = client.create_deployment(client.create_flow(known), name=campaign.name)
            run = client.create_flow_run_from_deployment(deployment, state=state)
        else:
            run = client.create_flow_run(known, state=state)
    write_task(campaign, make_task(num_items=1))
    vote_on_all(campaign)
    write_waiting(campaign, Waiting(round=1, message="waits", flow_run=str(run.id), since="2026-12-01T00:00:00+00:00"))
    return run.id


def waiting_rounds(runs: Path) -> Any:
    from prefect.settings import PREFECT_API_URL

    from flows.prefect_page.continuing import WaitingRounds
    from flows.servers.key import PrefectApi

    return WaitingRounds(runs, PrefectApi(str(PREFECT_API_URL.value())), page="http://127.0.0.1:4300")


def state_of(run: Any) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run).state
    assert state is not None
    return str(state.name)
