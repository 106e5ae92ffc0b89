"""People vote on the labelling page of the stack: its service may end, and the round goes on by itself."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.labelling.serving import Person
from tests.stack.containers import ROUND_SECONDS, START_SECONDS, Stack, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(3600)]
CAMPAIGN = "people"
SETTINGS = [
    "active.budget=4",
    "active.judge.kind=people",
    "active.judge.people.overlap_share=0.0",
]


@pytest.fixture(scope="module")
def waiting(stack: Stack) -> str:
    """The id of a flow run whose round waits for people to vote on four pairs."""
    run = stack.start(CAMPAIGN, num_rounds=1, settings=SETTINGS)
    ends = ("Suspended", "Completed", "Failed", "Crashed", "Cancelled")
    wait_until(lambda: state(stack, run) in ends, "the run to wait", ROUND_SECONDS, stack.logs, "worker")
    assert state(stack, run) == "Suspended", stack.logs("worker")
    return run


@pytest.fixture
def visitor(stack: Stack) -> Iterator[httpx.Client]:
    """A browser, without the browser."""
    with httpx.Client(base_url=stack.labelling, trust_env=False, timeout=30) as client:
        yield client


@pytest.mark.usefixtures("waiting")
def test_labelling_page_shows_a_visitor_without_a_link_no_task(visitor: httpx.Client) -> None:
    assert visitor.get("/healthz").text == "ok\n"
    for path in (f"/c/{CAMPAIGN}/", f"/c/{CAMPAIGN}/item"):
        answer = visitor.get(path)
        assert answer.status_code == 401
        assert "situation" not in answer.text
    assert visitor.get(f"/join/{CAMPAIGN}.{'x' * 43}").status_code == 404


def test_votes_on_the_labelling_page_survive_its_service_and_let_the_round_go_on(
    stack: Stack, waiting: str, visitor: httpx.Client
) -> None:
    link = stack.execute("labelling", "ratchet", "label", CAMPAIGN, "--invite", "anna").split()[0]
    assert link.startswith(f"{stack.labelling}/join/{CAMPAIGN}."), "the port under which this machine reaches the page"
    anna = Person(visitor, campaign=CAMPAIGN)
    anna.join(link)
    anna.vote()
    stack.compose("restart", "labelling")
    assert judged(stack, anna) == 1
    anna.vote()
    stack.kill("labelling")
    assert judged(stack, anna) == 2
    while anna.state == "item":
        anna.vote()
    assert stack.wait_until_final(waiting, seconds=ROUND_SECONDS)["type"] == "COMPLETED", stack.logs("worker")
    (record,) = stack.campaign(CAMPAIGN)["rounds"]
    assert (record["people"]["labelled"], record["people"]["annotators"]) == (4, 1)
    assert "closed (quota)" in stack.execute("labelling", "ratchet", "label", CAMPAIGN, "--status")


def judged(stack: Stack, person: Person) -> int:
    """Return how many items a person has judged, once the labelling service answers again."""
    wait_until(lambda: stack.is_healthy("labelling"), "the page", START_SECONDS, stack.logs, "labelling")
    answer = person.client.get(f"/c/{CAMPAIGN}/item")
    person.read(answer)
    found = re.search(r'data-judged="(\d+)"', answer.text)
    assert found is not None, answer.text
    return int(found[1])


def state(stack: Stack, run: str) -> Any:
    """Return the name of a flow run's state."""
    return stack.ask(f"/flow_runs/{run}")["state"]["name"]
