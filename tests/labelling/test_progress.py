import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from components.labelling import progress
from components.labelling.database import Database, database_path
from components.labelling.desk import Desk
from components.labelling.plan import read_plan
from components.labelling.progress import close_by_hand, close_due, read_annotators, read_progress
from components.labelling.task import Vote, read_votes, write_task
from components.records import NewerVersion
from tests.labelling.tasks import make_task
from tests.labelling.test_assignment import ballot, next_item


def vote(desk: Desk, task: str, annotator: str, choice: Any = "left") -> None:
    assert desk.vote(annotator, task, ballot(next_item(desk, annotator), choice)) == "kept"


def test_task_closes_when_its_quota_is_reached(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=5, quota=2)
    directory = write_task(campaign, task)
    vote(desk, task.task, "ann")
    assert close_due(campaign, clock.now) == []
    assert read_votes(directory) is None
    vote(desk, task.task, "bob")
    assert close_due(campaign, clock.now) == [task.task]
    votes = read_votes(directory)
    assert votes is not None
    assert (votes.task, votes.closed, votes.closed_at) == (task.task, "quota", "2026-12-01T12:00:00+00:00")
    assert [vote.annotator for vote in votes.votes] == ["ann", "bob"]
    assert close_due(campaign, clock.now) == []


def test_task_whose_deadline_was_moved_is_open_again_although_the_clock_was_set_back(
    desk: Desk, campaign: Path, clock: Any
) -> None:
    task = make_task(num_items=2, deadline=clock.now.isoformat())
    directory = write_task(campaign, task)
    assert close_due(campaign, clock.now) == [task.task]
    write_task(campaign, task.model_copy(update={"deadline": (clock.now + timedelta(hours=1)).isoformat()}))
    os.utime(directory / "task.json", ns=(1, 1))
    assert close_due(campaign, clock.now) == []
    vote(desk, task.task, "ann")


def test_gold_questions_fill_no_quota(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=5, num_gold=20, gold_share=0.7, quota=3)
    write_task(campaign, task)
    asked = 0
    while asked < 2:
        assigned = next_item(desk, "ann")
        desk.vote("ann", task.task, ballot(assigned))
        asked += assigned.item.gold is None
    assert close_due(campaign, clock.now) == []
    (told,) = read_progress(campaign)
    assert (told.labelled, told.closed) == (2, None)
    assert told.votes > 3


def test_item_that_one_of_two_people_skips_waits_for_a_vote_and_two_skips_give_it_up(campaign: Path) -> None:
    task = make_task(num_items=1)
    plan = read_plan(write_task(campaign, task))

    def given(annotator: str, choice: Any) -> Vote:
        item = task.items[0].item_id
        about = {"vote_id": annotator + choice, "shown_left": "first", "seconds": 1.0, "at": "", "flag": None}
        return Vote.model_validate(about | {"item_id": item, "annotator": annotator, "choice": choice})

    other = given("bob", "tie").model_copy(update={"item_id": "elsewhere"})
    assert plan.labelled([given("ann", "skip"), other]) == 0
    assert plan.labelled([given("ann", "skip"), given("bob", "skip")]) == 1
    assert plan.labelled([given("ann", "skip"), given("bob", "tie")]) == 1


def test_only_person_who_skips_the_last_item_does_not_keep_the_round_waiting(
    desk: Desk, campaign: Path, clock: Any
) -> None:
    task = make_task(num_items=2)
    write_task(campaign, task)
    vote(desk, task.task, "ann")
    assert close_due(campaign, clock.now) == []
    vote(desk, task.task, "ann", "skip")
    assert close_due(campaign, clock.now) == [task.task]


def test_task_whose_deadline_was_moved_is_open_again_with_its_votes(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=2, deadline="2026-12-01T13:00:00+00:00")
    directory = write_task(campaign, task)
    vote(desk, task.task, "ann")
    clock.tick(3600)
    assert close_due(campaign, clock.now) == [task.task]
    assert desk.next("ann").next == "closed"
    write_task(campaign, task.model_copy(update={"deadline": "2026-12-01T15:00:00+00:00"}))
    assert read_votes(directory) is None
    assert close_due(campaign, clock.now) == []
    vote(desk, task.task, "ann")
    assert close_due(campaign, clock.now) == [task.task]
    votes = read_votes(directory)
    assert votes is not None
    assert (votes.closed, len(votes.votes)) == ("quota", 2)


def test_items_that_need_more_votes_wait_for_them(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=1, votes_per_item=2)
    write_task(campaign, task)
    vote(desk, task.task, "ann")
    assert close_due(campaign, clock.now) == []
    vote(desk, task.task, "bob", "both_bad")
    assert close_due(campaign, clock.now) == [task.task]


def test_task_closes_at_its_deadline_with_what_it_has(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=5, deadline=(clock.now + timedelta(hours=1)).isoformat())
    directory = write_task(campaign, task)
    vote(desk, task.task, "ann")
    assert close_due(campaign, clock.now) == []
    clock.tick(3600)
    assert desk.next("ann").next == "closed"
    assert close_due(campaign, clock.now) == [task.task]
    votes = read_votes(directory)
    assert votes is not None
    assert (votes.closed, len(votes.votes)) == ("deadline", 1)


def test_deadline_that_passes_before_any_page_ran_publishes_no_votes(campaign: Path, clock: Any) -> None:
    directory = write_task(campaign, make_task(num_items=1, deadline=clock.now.isoformat()))
    assert not database_path(campaign).exists()
    close_due(campaign, clock.now)
    votes = read_votes(directory)
    assert votes is not None
    assert votes.votes == ()


def test_close_by_hand_publishes_what_stands_and_later_votes_come_too_late(
    desk: Desk, campaign: Path, clock: Any
) -> None:
    task = make_task(num_items=3)
    directory = write_task(campaign, task)
    vote(desk, task.task, "ann")
    vote(desk, task.task, "ann", "tie")
    desk.undo("ann", task.task, str(uuid4()))
    late = next_item(desk, "ann")
    assert close_by_hand(campaign, clock.now) == [task.task]
    assert desk.vote("ann", task.task, ballot(late)) == "closed"
    assert desk.undo("ann", task.task, str(uuid4())) == "closed"
    assert desk.next("ann").next == "closed"
    votes = read_votes(directory)
    assert votes is not None
    assert votes.closed == "by_hand"
    assert len(votes.votes) == 1
    assert close_by_hand(campaign, clock.now) == []


@pytest.mark.parametrize("reason", ["quota", "by_hand"])
def test_crash_between_closing_and_publishing_is_made_good(
    reason: Any, desk: Desk, campaign: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(num_items=2, quota=1 if reason == "quota" else 2)
    directory = write_task(campaign, task)
    vote(desk, task.task, "ann")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    close = close_due if reason == "quota" else close_by_hand
    with monkeypatch.context() as patched:
        patched.setattr(progress, "write_json", crash)
        with pytest.raises(KeyboardInterrupt):
            close(campaign, clock.now)
    assert read_votes(directory) is None
    clock.tick(60)
    assert close_due(campaign, clock.now) == [task.task]
    votes = read_votes(directory)
    assert votes is not None
    assert (votes.closed, votes.closed_at) == (reason, "2026-12-01T12:00:00+00:00")


def test_progress_counts_items_votes_and_people_open_and_closed(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=4, quota=4)
    write_task(campaign, task)
    assert [told.votes for told in read_progress(campaign)] == [0]
    vote(desk, task.task, "ann")
    vote(desk, task.task, "bob")
    vote(desk, task.task, "bob", "skip")
    (told,) = read_progress(campaign)
    assert (told.labelled, told.quota, told.votes, told.annotators, told.closed) == (2, 4, 3, 2, None)
    close_by_hand(campaign, clock.now)
    assert read_progress(campaign) == [told.model_copy(update={"closed": "by_hand"})]


def test_annotators_are_measured_on_gold_questions(desk: Desk, campaign: Path) -> None:
    task = make_task(num_items=8, num_gold=8, gold_share=0.5)
    write_task(campaign, task)
    while not isinstance(assigned := desk.next("ann").next, str):
        right = assigned.item.gold == assigned.shown_left
        desk.vote("ann", task.task, ballot(assigned, "left" if right else "tie"))
    (figures,) = read_annotators(campaign)
    gold_votes = figures.votes - 8
    assert figures.gold_seen == gold_votes > 1
    assert 0 < figures.gold_right < gold_votes
    assert figures.seconds_per_item == 1.5


def test_campaign_without_tasks_has_no_progress(campaign: Path, clock: Any) -> None:
    assert read_progress(campaign) == []
    assert close_due(campaign, clock.now) == []
    assert not database_path(campaign).exists()


def test_database_of_a_newer_version_is_refused(desk: Desk, campaign: Path) -> None:
    with desk.database.writing() as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(NewerVersion, match="schema 2"):
        Database(campaign)


def test_database_is_its_owners_alone(desk: Desk, campaign: Path) -> None:
    files = list((campaign / "labelling").iterdir())
    assert {"labels.sqlite", "labels.sqlite-wal", "cookie-key"} <= {file.name for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_task_on_which_nobody_has_voted_is_not_closed_by_hand(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=2)
    directory = write_task(campaign, task)
    vote(desk, task.task, "ann", "skip")
    with pytest.raises(ValueError, match="nobody has voted on round-001-1a2b3c4d5e6f"):
        close_by_hand(campaign, clock.now)
    vote(desk, task.task, "ann")
    assert close_by_hand(campaign, clock.now) == [task.task]
    assert read_votes(directory) is not None
