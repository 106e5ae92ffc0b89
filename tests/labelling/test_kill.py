"""The server is killed again and again while people vote: no vote that was answered is lost, and none counts twice."""

import random
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import httpx

from components.labelling.progress import close_by_hand
from components.labelling.task import read_votes, write_task
from tests.labelling.serving import Person, label_server
from tests.labelling.tasks import make_task


def test_server_killed_while_people_vote_loses_and_doubles_nothing(campaign: Path) -> None:
    task = make_task(num_items=400, quota=400)
    directory = write_task(campaign, task)
    answered: list[str] = []
    over = threading.Event()

    def work(person: Person) -> None:
        """Vote as the page's script does: the same vote again until it is answered."""
        while not over.is_set() and person.state == "item":
            ballot = person.ballot()
            while not over.is_set():
                try:
                    answer = person.post("vote", ballot)
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 429:
                    time.sleep(0.2)
                    continue
                person.read(answer)
                answered.append(ballot["vote_id"])
                break

    with label_server(campaign.parent) as server:
        people = []
        for number in range(4):
            client = httpx.Client(base_url=server.url, trust_env=False, timeout=10)
            people.append(Person(client))
            people[-1].join(server.link(f"annotator-{number}"))
        threads = [threading.Thread(target=work, args=[person]) for person in people]
        for thread in threads:
            thread.start()
        draws = random.Random(7)
        for _ in range(3):
            time.sleep(0.5 + draws.random())
            server.kill()
            server.start()
        time.sleep(1)
        over.set()
        for thread in threads:
            thread.join()
        for person in people:
            person.client.close()
    close_by_hand(campaign, datetime.now(UTC))
    votes = read_votes(directory)
    assert votes is not None
    counts = Counter(vote.vote_id for vote in votes.votes)
    assert len(answered) > 20
    assert set(answered) <= counts.keys()
    assert set(counts.values()) == {1}
    assert set(Counter(vote.item_id for vote in votes.votes).values()) == {1}
