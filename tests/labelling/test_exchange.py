import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from components.config import PeopleConfig
from components.data.preference_file import load_seed_pairs
from components.judges.people_votes import counted_votes
from components.labelling.desk import Desk
from components.labelling.exchange import export_pairs, labelled_pairs
from components.labelling.importing import import_votes
from components.labelling.progress import close_by_hand, close_due, read_annotators, read_standing
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


SAID = {"ann": ("first", "second", "tie", "skip"), "bob": ("first", "both_bad", "second", "skip")}
"""What two people say about the four questions."""


@pytest.fixture
def voted(desk: Desk, campaign: Path, task: Task, clock: Any) -> Path:
    """The campaign after both have voted, Bob first."""
    for name in ("bob", "ann"):
        judge(desk, task, name, {f"Question {number} of data?": said for number, said in enumerate(SAID[name])})
        clock.tick(60)
    return campaign


def by_question(rows: list[Any], cell: str) -> dict[int, Any]:
    """Return the rows of a file by the number of their question."""
    return {int(row[cell]["prompt"].split()[1]): row for row in rows}


def test_label_studio_export_has_an_annotation_of_each_person_without_names(voted: Path, tmp_path: Path) -> None:
    out = tmp_path / "votes.json"
    assert export_pairs(voted, out, target="label-studio").num_written == 3
    tasks = by_question(json.loads(out.read_text()), "data")
    assert tasks.keys() == {0, 1, 2}
    bob, ann = ({"email": f"demo.person-{number}@ratchet.invalid"} for number in (1, 2))
    pairwise = {"type": "pairwise", "from_name": "comparison", "to_name": "answer1,answer2"}
    verdict = {"type": "choices", "from_name": "verdict", "to_name": "answer1"}
    left, right = ([{**pairwise, "value": {"selected": side}}] for side in ("left", "right"))
    tie, both_bad = ([{**verdict, "value": {"choices": [choice]}}] for choice in ("tie", "both_bad"))
    expected = {0: (left, left), 1: (both_bad, right), 2: (right, tie)}
    for number, results in expected.items():
        assert tasks[number]["data"]["answer1"] == f"The first answer to {number}."
        assert tasks[number]["data"]["answer2"] == f"The second answer to {number}."
        assert tasks[number]["annotations"] == [
            {"was_cancelled": False, "completed_by": by, "result": result}
            for by, result in zip((bob, ann), results, strict=True)
        ]
    assert not {"ann", "bob"} & set(re.findall(r"\w+", out.read_text()))


def test_argilla_export_has_a_response_of_each_person_without_names(voted: Path, tmp_path: Path) -> None:
    out = tmp_path / "votes.json"
    assert export_pairs(voted, out, target="argilla").num_written == 3
    records = by_question(json.loads(out.read_text()), "fields")
    bob, ann = (str(uuid5(NAMESPACE_URL, f"demo.person-{number}@ratchet.invalid")) for number in (1, 2))
    expected = {0: ("response1", "response1"), 1: ("both_bad", "response2"), 2: ("response2", "tie")}
    for number, values in expected.items():
        assert records[number]["responses"] == {
            "preference": [{"value": value, "user_id": user} for value, user in zip(values, (bob, ann), strict=True)]
        }
    assert not {"ann", "bob"} & set(re.findall(r"\w+", out.read_text()))


@pytest.mark.parametrize(("form", "suffix"), [("label-studio", "json"), ("argilla", "jsonl"), ("label-studio", "csv")])
def test_exported_votes_are_imported_elsewhere_as_those_of_the_same_people(
    form: str, suffix: str, voted: Path, task: Task, tmp_path: Path, clock: Any
) -> None:
    out = tmp_path / f"votes.{suffix}"
    export_pairs(voted, out, target=form)
    other = tmp_path / "other"
    write_task(other, task.model_copy(update={"campaign": "other"}))
    assert import_votes(other, str(out), annotator="lab", now=clock.now) == (6, 0, 0)
    assert import_votes(other, str(out), annotator="lab", now=clock.now) == (0, 6, 0)
    people = {figures.annotator: figures.votes for figures in read_annotators(other)}
    ids = [f"demo.person-{number}@ratchet.invalid" for number in (1, 2)]
    ids = [str(uuid5(NAMESPACE_URL, name)) for name in ids] if form == "argilla" else ids
    assert people == {f"lab-{name}": 3 for name in ids}
    texts = {item.item_id: item.messages[0]["content"] for item in task.items}
    ((_, votes),) = read_standing(other)
    imported = {(vote.annotator, texts[vote.item_id]): vote.choice for vote in votes}
    assert imported == {
        (f"lab-{ids[person]}", f"Question {number} of data?"): SAID[name][number]
        for person, name in enumerate(("bob", "ann"))
        for number in range(3)
    }
    assert [pair.p for pair in labelled_pairs(other)] == [pair.p for pair in labelled_pairs(voted)]


@pytest.mark.parametrize("form", ["label-studio", "argilla"])
def test_campaigns_own_export_adds_nobody_and_nothing(form: str, voted: Path, tmp_path: Path, clock: Any) -> None:
    out = tmp_path / "votes.json"
    export_pairs(voted, out, target=form)
    assert import_votes(voted, str(out), annotator="lab", now=clock.now) == (0, 6, 0)
    assert [figures.annotator for figures in read_annotators(voted)] == ["ann", "bob"]


def test_newcomer_changes_nobodys_pseudonym(voted: Path, task: Task, clock: Any, tmp_path: Path) -> None:
    item, file, out = task.items[3], tmp_path / "pair.jsonl", tmp_path / "votes.json"
    file.write_text(json.dumps({"prompt": item.messages, "chosen": item.first, "rejected": item.second}))
    assert import_votes(voted, str(file), annotator="aaron", now=clock.now).taken == 1
    export_pairs(voted, out, target="label-studio")
    rows = by_question(json.loads(out.read_text()), "data")
    people = {number: [each["completed_by"]["email"] for each in row["annotations"]] for number, row in rows.items()}
    bob, ann, aaron = (f"demo.person-{number}@ratchet.invalid" for number in (1, 2, 3))
    assert people == {0: [bob, ann], 1: [bob, ann], 2: [bob, ann], 3: [aaron]}


def test_votes_of_label_studios_users_count_each_and_without_users_as_one(
    campaign: Path, task: Task, tmp_path: Path, clock: Any
) -> None:
    def annotation(selected: str, by: Any) -> dict[str, Any]:
        value = {"type": "pairwise", "to_name": "answer1,answer2", "value": {"selected": selected}}
        return {"result": [value], **({} if by is None else {"completed_by": by})}

    one, other = (item for item in task.items[:2])
    rows = [
        {
            "data": {"prompt": item.messages[0]["content"], "answer1": item.second, "answer2": item.first},
            "annotations": annotations,
        }
        for item, annotations in (
            (one, [annotation("left", 7), annotation("right", {"id": 9, "email": "eve@example.org"})]),
            (other, [annotation("left", None), annotation("left", None), annotation("right", None)]),
        )
    ]
    file = tmp_path / "export.json"
    file.write_text(json.dumps(rows))
    assert import_votes(campaign, str(file), annotator="studio", now=clock.now) == (3, 0, 0)
    ((_, votes),) = read_standing(campaign)
    assert {(vote.annotator, vote.item_id): vote.choice for vote in votes} == {
        ("studio-7", one.item_id): "second",
        ("studio-9", one.item_id): "first",
        ("studio", other.item_id): "second",
    }
