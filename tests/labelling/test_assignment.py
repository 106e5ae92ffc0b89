from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from components.labelling.assignment import LEASE_SECONDS, Assigned
from components.labelling.desk import Desk
from components.labelling.task import Task, write_task
from components.labelling.voting import Ballot
from tests.labelling.tasks import make_task


def ballot(assigned: Assigned, choice: Any = "left") -> Ballot:
    return Ballot(vote_id=str(uuid4()), item_id=assigned.item.item_id, choice=choice, seconds=1.5, flag=None)


def next_item(desk: Desk, annotator: str) -> Assigned:
    assigned = desk.next(annotator).next
    assert isinstance(assigned, Assigned), assigned
    return assigned


def work_through(desk: Desk, task: Task, annotator: str, choice: Any = "left") -> list[str]:
    """Judge all that an annotator gets, and return the items in their order."""
    items = []
    while isinstance(assigned := desk.next(annotator).next, Assigned):
        assert desk.vote(annotator, task.task, ballot(assigned, choice)) == "kept"
        items.append(assigned.item.item_id)
    return items


def test_item_of_one_vote_is_leased_to_one_person(desk: Desk, campaign: Path) -> None:
    write_task(campaign, make_task(num_items=2))
    first, second = (next_item(desk, name).item.item_id for name in ("ann", "bob"))
    assert first != second
    assert desk.next("cleo").next == "wait"


def test_annotator_who_comes_back_finds_the_item_that_they_were_at(desk: Desk, campaign: Path, clock: Any) -> None:
    write_task(campaign, make_task(num_items=5))
    before = next_item(desk, "ann")
    clock.tick(LEASE_SECONDS + 1)
    assert next_item(desk, "ann") == before


def test_item_whose_lease_ended_goes_to_another_and_its_late_vote_is_kept(
    desk: Desk, campaign: Path, clock: Any
) -> None:
    task = make_task(num_items=1)
    write_task(campaign, task)
    late = next_item(desk, "ann")
    assert desk.next("bob").next == "wait"
    clock.tick(LEASE_SECONDS + 1)
    assert next_item(desk, "bob").item == late.item
    assert desk.next("ann").next == "wait"
    assert desk.vote("ann", task.task, ballot(late)) == "kept"
    assert desk.next("ann").next == "nothing"


def test_renewed_lease_stays(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=1)
    write_task(campaign, task)
    item = next_item(desk, "ann").item.item_id
    for _ in range(3):
        clock.tick(LEASE_SECONDS - 1)
        desk.renew("ann", task.task, item)
    assert desk.next("bob").next == "wait"


def test_overlap_item_is_judged_by_different_people_and_no_more_of_them(desk: Desk, campaign: Path) -> None:
    task = make_task(num_items=4, overlap_share=1.0, overlap_votes=3)
    write_task(campaign, task)
    judged = {name: work_through(desk, task, name) for name in ("ann", "bob", "cleo", "dan")}
    assert all(len(set(judged[name])) == 4 for name in ("ann", "bob", "cleo"))
    assert judged["dan"] == []
    assert desk.next("dan").next == "nothing"


def test_items_that_have_votes_already_come_first(desk: Desk, campaign: Path) -> None:
    task = make_task(num_items=30, votes_per_item=2)
    write_task(campaign, task)
    begun = set()
    for _ in range(5):
        assigned = next_item(desk, "ann")
        desk.vote("ann", task.task, ballot(assigned))
        begun.add(assigned.item.item_id)
    taken = []
    for _ in range(5):
        assigned = next_item(desk, "bob")
        desk.vote("bob", task.task, ballot(assigned))
        taken.append(assigned.item.item_id)
    assert set(taken) == begun


def test_skipped_item_goes_to_another_and_does_not_come_back(desk: Desk, campaign: Path) -> None:
    task = make_task(num_items=2)
    write_task(campaign, task)
    assert len(work_through(desk, task, "ann", "skip")) == 2
    assert desk.next("ann").next == "nothing"
    assert len(work_through(desk, task, "bob")) == 2


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.2, 20, 60), (1.0, 100, 100)])
def test_gold_questions_are_about_their_share_of_what_is_seen(
    share: float, low: int, high: int, desk: Desk, campaign: Path
) -> None:
    task = make_task(num_items=150, num_gold=100, gold_share=share)
    write_task(campaign, task)
    gold = {item.item_id for item in task.items if item.gold is not None}
    seen = work_through(desk, task, "ann")
    assert low <= len(gold & set(seen)) <= high
    assert len(seen) == len(set(seen))


def test_gold_questions_are_mixed_differently_for_each_annotator(desk: Desk, campaign: Path) -> None:
    task = make_task(num_items=20, num_gold=10, gold_share=0.4, votes_per_item=2)
    write_task(campaign, task)
    gold = {item.item_id for item in task.items if item.gold is not None}
    places = [[item in gold for item in work_through(desk, task, name)] for name in ("ann", "bob")]
    assert places[0] != places[1]
    assert all(map(any, places))


def test_side_is_drawn_by_annotator_and_item_and_stays(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=40, votes_per_item=2)
    write_task(campaign, task)
    sides: dict[str, dict[str, str]] = {"ann": {}, "bob": {}}
    for name, shown in sides.items():
        for _ in range(40):
            assigned = next_item(desk, name)
            assert next_item(desk, name).shown_left == assigned.shown_left
            shown[assigned.item.item_id] = assigned.shown_left
            desk.vote(name, task.task, ballot(assigned))
    counts = Counter(sides["ann"].values())
    assert 8 <= counts["first"] <= 32
    assert sides["ann"] != sides["bob"]


def test_earlier_round_is_finished_first(desk: Desk, campaign: Path) -> None:
    for round in (1, 2):
        write_task(campaign, make_task(num_items=1, round=round, task=f"round-{round:03d}-aaaaaaaaaaaa"))
    assert next_item(desk, "ann").plan.task.round == 1
    assert next_item(desk, "bob").plan.task.round == 2


def test_leases_are_never_given_twice_in_threads(desk: Desk, campaign: Path, clock: Any) -> None:
    task = make_task(num_items=120)
    write_task(campaign, task)
    others = [Desk(campaign, clock=clock) for _ in range(2)]  # as further processes would open it

    def work(number: int) -> list[str]:
        return work_through([desk, *others][number % 3], task, f"annotator-{number}")

    try:
        with ThreadPoolExecutor(12) as threads:
            judged = [item for items in threads.map(work, range(12)) for item in items]
    finally:
        for other in others:
            other.close()
    assert Counter(judged) == Counter(item.item_id for item in task.items)
