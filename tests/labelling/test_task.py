from pathlib import Path

import pytest
from pydantic import ValidationError

from components.artifacts import write_json
from components.labelling.task import (
    Item,
    Task,
    Vote,
    Votes,
    has_votes,
    item_id,
    read_task,
    read_votes,
    tasks_of,
    votes_needed,
    write_task,
)
from tests.labelling.tasks import make_item, make_task


def test_task_written_is_read_back_equal(tmp_path: Path) -> None:
    task = make_task(num_items=3, num_gold=1)
    directory = write_task(tmp_path, task)
    assert directory == tmp_path / "labelling" / task.task
    assert read_task(directory) == task
    assert read_votes(directory) is None


def test_task_written_twice_stays_and_another_of_its_name_is_refused(tmp_path: Path) -> None:
    task = make_task(num_items=3)
    assert write_task(tmp_path, task) == write_task(tmp_path, task)
    with pytest.raises(ValueError, match="holds another task"):
        write_task(tmp_path, task.model_copy(update={"rubric": "another"}))


def test_task_takes_new_numbers_of_votes_and_a_new_name_of_its_campaign(tmp_path: Path) -> None:
    task = make_task(num_items=3)
    new = {"votes_per_item": 2, "overlap_share": 0.5, "overlap_votes": 3, "quota": 1, "campaign": "moved"}
    changed = make_task(num_items=3, **new)
    write_task(tmp_path, task)
    assert read_task(write_task(tmp_path, changed)) == changed


def test_new_task_withdraws_the_open_ones_of_its_round_and_of_later_ones(tmp_path: Path) -> None:
    names = {round: f"round-{round:03d}-aaaaaaaaaaaa" for round in (1, 2, 3)}
    for round, name in names.items():
        write_task(tmp_path, make_task(num_items=round, round=round, task=name))
    closed = make_task(num_items=1, round=2, task="round-002-cccccccccccc")
    at = "2026-12-01T00:00:00+00:00"
    write_json(
        write_task(tmp_path, closed) / "votes.json", Votes(task=closed.task, closed="quota", closed_at=at, votes=())
    )
    other = make_task(num_items=2, round=2, task="round-002-bbbbbbbbbbbb", rubric="another")
    write_task(tmp_path, other)
    assert {task.task for task in tasks_of(tmp_path)} == {names[1], closed.task, other.task}
    assert not has_votes(tmp_path, 2)
    write_json(
        tmp_path / "labelling" / other.task / "votes.json",
        Votes(task=other.task, closed="quota", closed_at=at, votes=()),
    )
    assert has_votes(tmp_path, 2), "nobody waits for the one that was withdrawn"


def test_tasks_are_listed_by_round(tmp_path: Path) -> None:
    for round in (2, 10):
        write_task(tmp_path, make_task(num_items=1, round=round))
    assert [task.round for task in tasks_of(tmp_path)] == [2, 10]
    assert not tasks_of(tmp_path / "absent")


def test_item_id_tells_which_answer_is_first() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert item_id(messages, "a", "b") != item_id(messages, "b", "a")
    assert len(item_id(messages, "a", "b")) == 16


def test_task_with_an_item_twice_is_refused() -> None:
    task = make_task(num_items=1)
    with pytest.raises(ValidationError, match="the same item twice"):
        Task.model_validate(task.model_dump() | {"items": [task.items[0], task.items[0]]})


def test_task_whose_quota_counts_gold_is_refused() -> None:
    with pytest.raises(ValidationError, match="quota = 3 is more than the task's 2 items"):
        make_task(num_items=2, num_gold=1, quota=3)


def test_task_name_that_leaves_its_directory_is_refused() -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        make_task(num_items=1, task="../other")


def test_task_with_a_deadline_of_no_zone_is_refused() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        make_task(num_items=1, deadline="2026-12-01T10:00:00")


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.25, 30, 80), (1.0, 200, 200)])
def test_overlap_is_about_the_wanted_share_and_follows_content(share: float, low: int, high: int) -> None:
    task = make_task(num_items=200, overlap_share=share, overlap_votes=3)
    needed = {item.item_id: votes_needed(task, item) for item in task.items}
    assert low <= sum(votes == 3 for votes in needed.values()) <= high
    assert set(needed.values()) <= {1, 3}
    turned = task.model_copy(update={"items": task.items[::-1]})
    assert {item.item_id: votes_needed(turned, item) for item in turned.items} == needed


def test_votes_of_an_unknown_choice_are_refused() -> None:
    vote = {
        "vote_id": "v",
        "item_id": "i",
        "annotator": "ann",
        "choice": "tie",
        "shown_left": "first",
        "seconds": 1.0,
        "at": "2026-12-01T00:00:00+00:00",
        "flag": None,
    }
    Votes(task="t", closed="quota", closed_at="2026-12-01T00:00:00+00:00", votes=(Vote.model_validate(vote),))
    with pytest.raises(ValidationError):
        Vote.model_validate(vote | {"choice": "left"})


def test_item_keeps_tool_calls_of_its_messages() -> None:
    item = make_item(0)
    call = {"id": "1", "function": {"name": "search", "arguments": "{}"}}
    messages = [*item.messages, {"role": "assistant", "content": "", "tool_calls": [call]}]
    again = Item.model_validate_json(item.model_copy(update={"messages": messages}).model_dump_json())
    assert again.messages == messages
