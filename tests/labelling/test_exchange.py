import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.config import PeopleConfig
from components.data.preference_file import load_seed_pairs
from components.judges.people_votes import counted_votes
from components.labelling.desk import Desk
from components.labelling.exchange import export_pairs, import_votes, labelled_pairs
from components.labelling.progress import close_by_hand, close_due, read_annotators
from components.labelling.task import Task, read_votes, write_task
from tests.labelling.tasks import make_task
from tests.labelling.test_assignment import ballot, next_item

NOW = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def task(campaign: Path) -> Task:
    task = make_task(num_items=4, num_gold=2, gold_share=0.5, votes_per_item=2)
    write_task(campaign, task)
    return task


def judge(desk: Desk, task: Task, annotator: str, choices: dict[str, str]) -> None:
    """Judge all, by the item's question."""
    while not isinstance(assigned := desk.next(annotator).next, str):
        question = assigned.item.messages[0]["content"]
        choice: Any = choices.get(question, "first")
        if choice in ("first", "second"):
            choice = "left" if choice == assigned.shown_left else "right"
        desk.vote(annotator, task.task, ballot(assigned, choice))


def test_votes_become_pairs_with_the_share_that_chose(desk: Desk, campaign: Path, task: Task) -> None:
    questions = [f"Question {number} of data?" for number in range(4)]
    judge(desk, task, "ann", dict(zip(questions, ("first", "second", "tie", "skip"), strict=True)))
    judge(desk, task, "bob", dict(zip(questions, ("first", "first", "first", "skip"), strict=True)))
    pairs = {pair.messages[0]["content"]: pair for pair in labelled_pairs(campaign)}
    assert pairs.keys() == set(questions[:3])
    assert [pairs[question].p for question in questions[:3]] == [1.0, 0.5, 0.75]
    assert pairs[questions[0]].chosen == "The first answer to 0."


@pytest.mark.parametrize(
    ("form", "suffix"),
    [("ratchet", "jsonl"), ("trl", "jsonl"), ("hh", "jsonl"), ("label-studio", "json"), ("argilla", "json")],
)
def test_exported_votes_are_read_back_by_the_forms_own_reader(
    form: str, suffix: str, desk: Desk, campaign: Path, task: Task, tmp_path: Path
) -> None:
    judge(desk, task, "ann", {"Question 1 of data?": "second"})
    out = tmp_path / f"votes.{suffix}"
    conversion = export_pairs(campaign, out, target=form)
    assert conversion.num_written == 4
    chosen = {pair.messages[-1]["content"]: pair.chosen for pair in load_seed_pairs(str(out), split="train").pairs}
    assert len(chosen) == 4
    assert chosen["Question 1 of data?"] == "The second answer to 1."
    assert chosen["Question 2 of data?"] == "The first answer to 2."


def test_export_without_votes_says_so(campaign: Path, task: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demo has no votes yet"):
        export_pairs(campaign, tmp_path / "votes.jsonl", target="trl")


def test_label_studio_annotations_count_as_votes_and_close_the_task(
    desk: Desk, campaign: Path, task: Task, tmp_path: Path, clock: Any
) -> None:
    rows = []
    for number, item in enumerate(item for item in task.items if item.gold is None):
        selected = "left" if number % 2 else "right"
        value = {"type": "pairwise", "to_name": "answer1,answer2", "value": {"selected": selected}}
        data = {"prompt": item.messages[0]["content"], "answer1": item.first, "answer2": item.second}
        rows.append({"data": data, "annotations": [{"result": [value]}]})
    rows.append({"data": {"prompt": "other", "answer1": "a", "answer2": "b"}, "annotations": rows[0]["annotations"]})
    file = tmp_path / "export.json"
    file.write_text(json.dumps(rows))
    assert import_votes(campaign, str(file), annotator="studio", now=clock.now) == (4, 0, 1)
    clock.tick(60)
    assert import_votes(campaign, str(file), annotator="studio", now=clock.now) == (0, 4, 1)
    assert close_due(campaign, clock.now) == []
    judge(desk, task, "ann", {})
    assert close_due(campaign, clock.now) == [task.task]
    votes = read_votes(campaign / "labelling" / task.task)
    assert votes is not None
    texts = {item.item_id: item.messages[0]["content"] for item in task.items}
    imported = {texts[vote.item_id]: vote.choice for vote in votes.votes if vote.annotator == "studio"}
    assert imported == {f"Question {number} of data?": "first" if number % 2 else "second" for number in range(4)}


def test_imported_tie_is_a_tie(desk: Desk, campaign: Path, task: Task, tmp_path: Path, clock: Any) -> None:
    item = task.items[0]
    row = {"prompt": item.messages, "chosen": item.second, "rejected": item.first, "p": 0.5}
    file = tmp_path / "ties.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert import_votes(campaign, str(file), annotator="other", now=clock.now).taken == 1
    (pair,) = labelled_pairs(campaign)
    assert pair.is_tie
    next_item(desk, "ann")


@pytest.mark.parametrize("name", ["a/b", "by x", "../x", "", "x" * 300, "\N{GRINNING FACE}"])
def test_import_under_a_name_that_no_annotator_has_is_refused(campaign: Path, task: Task, name: str) -> None:
    with pytest.raises(ValueError, match="must have 1 to 64 letters"):
        import_votes(campaign, "absent.jsonl", annotator=name, now=NOW)


def test_imported_votes_say_nothing_of_sides_and_seconds(
    desk: Desk, campaign: Path, task: Task, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    item = task.items[0]
    pairs.write_text(json.dumps({"prompt": item.messages[0]["content"], "chosen": item.first, "rejected": item.second}))
    assert import_votes(campaign, str(pairs), annotator="tool", now=NOW).taken == 1
    (figures,) = read_annotators(campaign)
    assert figures.seconds_per_item is None
    close_by_hand(campaign, NOW)
    votes = read_votes(campaign / "labelling" / task.task)
    assert votes is not None
    annotator = counted_votes(task, votes, PeopleConfig()).report.annotators["tool"]
    assert (annotator.votes, annotator.left_share, annotator.median_seconds) == (1, None, None)
