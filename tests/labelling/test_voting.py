import dataclasses
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from components.labelling.desk import Desk
from components.labelling.plan import read_plan
from components.labelling.task import Task, Vote, write_task
from components.labelling.voting import standing_votes
from tests.labelling.tasks import make_task
from tests.labelling.test_assignment import ballot, next_item


def votes_of(desk: Desk, campaign: Path, task: Task) -> tuple[Vote, ...]:
    with desk.database.reading() as connection:
        return standing_votes(connection, read_plan(campaign / "labelling" / task.task))


@pytest.fixture
def task(campaign: Path) -> Task:
    task = make_task(num_items=6)
    write_task(campaign, task)
    return task


def test_vote_names_the_answer_and_not_the_side(desk: Desk, campaign: Path, task: Task) -> None:
    sides = {}
    for choice in ("left", "right", "left", "right"):
        assigned = next_item(desk, "ann")
        sides[assigned.item.item_id] = (choice, assigned.shown_left)
        desk.vote("ann", task.task, ballot(assigned, choice))
    votes = votes_of(desk, campaign, task)
    assert len(votes) == 4
    for vote in votes:
        choice, left = sides[vote.item_id]
        assert vote.shown_left == left
        assert (vote.choice == left) == (choice == "left")
        assert vote.choice in ("first", "second")


@pytest.mark.parametrize("choice", ["tie", "both_bad", "skip"])
def test_vote_of_no_side_is_kept_as_it_is(choice: str, desk: Desk, campaign: Path, task: Task) -> None:
    sent = dataclasses.replace(ballot(next_item(desk, "ann"), choice), flag="broken", seconds=2.25)
    desk.vote("ann", task.task, sent)
    (vote,) = votes_of(desk, campaign, task)
    assert (vote.choice, vote.flag, vote.seconds, vote.annotator) == (choice, "broken", 2.25, "ann")
    assert vote.at == "2026-12-01T12:00:00.000+00:00"


def test_vote_sent_again_counts_once(desk: Desk, campaign: Path, task: Task) -> None:
    sent = ballot(next_item(desk, "ann"))
    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(lambda _: desk.vote("ann", task.task, sent), range(20)))
    assert outcomes == ["kept"] * 20
    assert len(votes_of(desk, campaign, task)) == 1


def test_second_vote_on_an_item_is_told_and_changes_nothing(desk: Desk, campaign: Path, task: Task) -> None:
    assigned = next_item(desk, "ann")
    desk.vote("ann", task.task, ballot(assigned, "tie"))
    assert desk.vote("ann", task.task, ballot(assigned, "both_bad")) == "already"
    assert [vote.choice for vote in votes_of(desk, campaign, task)] == ["tie"]


def test_vote_on_an_item_that_was_not_shown_is_refused(desk: Desk, campaign: Path, task: Task) -> None:
    assigned = next_item(desk, "ann")
    assert desk.vote("bob", task.task, ballot(assigned)) == "unknown"
    assert desk.vote("ann", "round-009-000000000000", ballot(assigned)) == "unknown"
    assert votes_of(desk, campaign, task) == ()


def test_vote_by_the_name_of_anothers_is_refused(desk: Desk, campaign: Path, task: Task) -> None:
    sent = ballot(next_item(desk, "ann"))
    desk.vote("ann", task.task, sent)
    taken = dataclasses.replace(ballot(next_item(desk, "bob")), vote_id=sent.vote_id)
    assert desk.vote("bob", task.task, taken) == "unknown"
    assert len(votes_of(desk, campaign, task)) == 1


def test_undo_takes_back_the_latest_vote_and_shows_its_item_again(desk: Desk, campaign: Path, task: Task) -> None:
    first = next_item(desk, "ann")
    desk.vote("ann", task.task, ballot(first))
    second = next_item(desk, "ann")
    desk.vote("ann", task.task, ballot(second))
    third = next_item(desk, "ann")
    assert desk.undo("ann", task.task, str(uuid4())) == "undone"
    assert next_item(desk, "ann") == second
    assert [vote.item_id for vote in votes_of(desk, campaign, task)] == [first.item.item_id]
    desk.vote("ann", task.task, ballot(second, "tie"))
    assert next_item(desk, "ann") == third
    assert [vote.choice for vote in votes_of(desk, campaign, task)][-1] == "tie"


def test_undo_sent_again_takes_back_one_vote(desk: Desk, campaign: Path, task: Task) -> None:
    for _ in range(3):
        desk.vote("ann", task.task, ballot(next_item(desk, "ann")))
    event = str(uuid4())
    assert [desk.undo("ann", task.task, event) for _ in range(3)] == ["undone"] * 3
    assert len(votes_of(desk, campaign, task)) == 2


def test_vote_sent_again_after_its_undo_stays_undone(desk: Desk, campaign: Path, task: Task) -> None:
    sent = ballot(next_item(desk, "ann"))
    desk.vote("ann", task.task, sent)
    desk.undo("ann", task.task, str(uuid4()))
    assert desk.vote("ann", task.task, sent) == "kept"
    assert votes_of(desk, campaign, task) == ()


def test_undo_takes_back_no_vote_of_others(desk: Desk, campaign: Path, task: Task) -> None:
    desk.vote("ann", task.task, ballot(next_item(desk, "ann")))
    assert desk.undo("bob", task.task, str(uuid4())) == "none"
    assert len(votes_of(desk, campaign, task)) == 1


def test_item_that_was_undone_is_nobody_elses(desk: Desk, campaign: Path) -> None:
    task = make_task(num_items=1, task="round-001-bbbbbbbbbbbb")
    write_task(campaign, task)
    desk.vote("ann", task.task, ballot(next_item(desk, "ann")))
    desk.undo("ann", task.task, str(uuid4()))
    assert desk.next("bob").next == "wait"


@pytest.mark.parametrize("change", ["UPDATE events SET choice = 'tie'", "DELETE FROM events"])
def test_events_cannot_be_changed(change: str, desk: Desk, campaign: Path, task: Task) -> None:
    desk.vote("ann", task.task, ballot(next_item(desk, "ann")))
    with pytest.raises(sqlite3.IntegrityError, match="events are never"), desk.database.writing() as connection:
        connection.execute(change)
    assert len(votes_of(desk, campaign, task)) == 1
