from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from components.labelling.progress import close_by_hand
from components.labelling.task import read_votes, write_task
from tests.labelling.crowd import join_all, label_together
from tests.labelling.serving import label_server
from tests.labelling.tasks import make_task


def test_fifty_people_at_once_get_no_item_twice_and_lose_no_vote(campaign: Path) -> None:
    directory = write_task(campaign, make_task(num_items=400, quota=400))
    with label_server(campaign.parent) as server:
        people = join_all(server.url, [server.link(f"annotator-{number}") for number in range(50)])
        answered = label_together(people, pace_seconds=0.6, votes_each=6)
    close_by_hand(campaign, datetime.now(UTC))
    votes = read_votes(directory)
    assert votes is not None
    assert len(answered) == 300
    assert set(Counter(vote.item for vote in answered).values()) == {1}
    assert sorted(vote.vote_id for vote in votes.votes) == sorted(vote.vote_id for vote in answered)
    waiting = {person.item for person in people}
    assert len(waiting) == 50
    assert not waiting & {vote.item for vote in answered}
