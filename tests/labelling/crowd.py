"""Many annotators at once, by HTTP: for the test of what they get, and for the benchmark of how long they wait."""

import random
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from tests.labelling.serving import Person


class Answered(NamedTuple):
    """A vote that the server answered with the next item."""

    annotator: int
    item: str
    vote_id: str
    seconds: float


def join_all(url: str, links: Sequence[str]) -> list[Person]:
    """Return signed-in people, one per link."""
    people = []
    for link in links:
        people.append(Person(httpx.Client(base_url=url, trust_env=False, timeout=30)))
        people[-1].join(link)
    return people


def label_together(people: Sequence[Person], *, pace_seconds: float, votes_each: int) -> list[Answered]:
    """Let everybody vote, on average once in `pace_seconds`, and return what was answered.

    Raises:
        AssertionError: The server refused a vote.
    """
    answered: list[Answered] = []
    failures: list[Exception] = []

    def work(number: int, person: Person) -> None:
        draws = random.Random(number)
        try:
            for _ in range(votes_each):
                time.sleep(draws.uniform(0, 2 * pace_seconds))
                if person.state != "item":
                    return
                ballot = person.ballot(draws.choice(("left", "right", "tie")))
                started = time.perf_counter()
                answer = person.post("vote", ballot)
                seconds = time.perf_counter() - started
                person.read(answer)
                answered.append(Answered(number, ballot["item_id"], ballot["vote_id"], seconds))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for person in people:
        person.client.close()
    assert not failures, failures[0]
    return answered
