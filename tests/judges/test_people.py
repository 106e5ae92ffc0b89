"""People as a judge: what they are asked, when their votes suffice, and whose votes count."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import write_json
from components.config import CampaignConfig, JudgeConfig, PeopleConfig
from components.judges.people import PeopleJudge, gold_items
from components.judges.people_votes import counted_votes, probabilities
from components.judges.protocol import Group, JudgeContext, Verdict, conclusions, scores
from components.judges.registry import check_judge, judge_digest, load_judge
from components.labelling.task import LABELLING, VOTES, Item, Task, Vote, Votes, item_id, read_task, votes_needed
from components.records import JudgeUnavailable, RoundWaits

NOW = "2026-12-01T12:00:00+00:00"
GROUPS = [
    Group("p", [{"role": "user", "content": "Hi"}], ((0, "b"), (1, "a"))),
    Group("q", [{"role": "user", "content": "Bye"}], ((0, "c"), (1, "d"), (2, "c"))),
]


def people(**fields: Any) -> JudgeConfig:
    return JudgeConfig(kind="people", people=PeopleConfig(**{"overlap_share": 0.0, **fields}))


def judge_of(campaign: Path, config: JudgeConfig) -> Any:
    return load_judge(config, JudgeContext(campaign / "round-003" / "judging" / "collect_preferences"))


def the_task(campaign: Path) -> Task:
    (path,) = (campaign / LABELLING).glob("*/task.json")
    return read_task(path.parent)


def vote(item: str, annotator: str, choice: str, **fields: Any) -> Vote:
    given = {"vote_id": f"{item}{annotator}", "seconds": 2.0, "at": NOW, "flag": None, "shown_left": "first"} | fields
    return Vote(item_id=item, annotator=annotator, choice=choice, **given)  # type: ignore[arg-type]


def close(campaign: Path, *votes: Vote, closed: str = "quota", at: str = NOW) -> None:
    task = the_task(campaign)
    record = {"task": task.task, "closed": closed, "closed_at": at, "votes": [one.model_dump() for one in votes]}
    write_json(campaign / LABELLING / task.task / VOTES, Votes.model_validate(record))


def item_of(task: Task, text: str) -> Item:
    return next(item for item in task.items if text in (item.first, item.second))


def test_people_without_votes_make_the_round_wait_and_the_task_asks_each_pair_of_texts_once(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, people())
    with pytest.raises(RoundWaits, match=r"round 3 of campaign .* 2 of 2 pairs.*`ratchet label"):
        judge.judge(GROUPS)
    task = the_task(tmp_path)
    assert sorted((item.first, item.second) for item in task.items) == [("a", "b"), ("c", "d")]
    assert (task.round, task.quota, task.deadline) == (3, 2, None)
    before = task.created_at
    with pytest.raises(RoundWaits):
        judge.judge(GROUPS)
    assert the_task(tmp_path).created_at == before


def test_verdicts_follow_the_votes_whichever_answer_the_item_names_first(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, people())
    with pytest.raises(RoundWaits):
        judge.judge(GROUPS)
    task = the_task(tmp_path)
    close(
        tmp_path,
        vote(item_of(task, "a").item_id, "anna", "first"),  # "a", which is sample 1
        vote(item_of(task, "c").item_id, "anna", "second", flag="odd"),  # "d", which is sample 1
    )
    verdicts: list[Verdict] = judge.judge(GROUPS)
    concluded = conclusions(verdicts)
    assert {(one.prompt_id, one.sample_id, one.opponent_id) for one in concluded} == {
        ("p", 0, 1),
        ("q", 0, 1),
        ("q", 1, 2),
        ("q", 0, 2),
    }
    mean = scores(verdicts)
    assert mean["p", 1] > 0.5 > mean["p", 0]
    assert mean["q", 1] > mean["q", 0] == mean["q", 2]
    by_person = [one for one in verdicts if one.part]
    assert {one.part for one in by_person} == {"by anna"}
    assert [one.score for one in by_person if one.prompt_id == "p"] == [0.0]
    assert {one.detail for one in by_person if one.prompt_id == "q"} == {"flagged: odd"}


def test_pair_without_a_vote_has_no_verdict(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, people(quota=0.5))
    with pytest.raises(RoundWaits, match="1 of 2 pairs"):
        judge.judge(GROUPS)
    task = the_task(tmp_path)
    close(tmp_path, vote(item_of(task, "a").item_id, "anna", "tie"), vote(item_of(task, "c").item_id, "anna", "skip"))
    assert {(one.prompt_id, one.status) for one in conclusions(judge.judge(GROUPS)) if one.opponent_id != 2} == {
        ("p", "ok")
    }


def test_too_few_votes_at_the_deadline_stop_the_round_until_it_is_moved(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, people(deadline_hours=1, min_share=0.6))
    with pytest.raises(RoundWaits, match="until"):
        judge.judge(GROUPS)
    task = the_task(tmp_path)
    assert task.deadline is not None
    close(tmp_path, vote(item_of(task, "a").item_id, "anna", "first"), closed="deadline", at=task.deadline)
    with pytest.raises(JudgeUnavailable, match=r"1 of 2 pairs .*people.min_share = 0.6.*people.deadline_hours"):
        judge.judge(GROUPS)
    with pytest.raises(RoundWaits):
        judge_of(tmp_path, people(deadline_hours=2, min_share=0.6)).judge(GROUPS)
    assert the_task(tmp_path).task == task.task
    close(tmp_path, vote(item_of(task, "a").item_id, "anna", "first"), closed="by_hand")
    assert judge.judge(GROUPS)


def test_quota_is_a_whole_number_of_pairs_without_the_error_of_binary_fractions(tmp_path: Path) -> None:
    texts = tuple((number, f"{number}") for number in range(101))
    judge = judge_of(tmp_path, people(quota=0.07).model_copy(update={"comparisons": 100}))
    with pytest.raises(RoundWaits, match="7 of 100 pairs"):
        judge.judge([Group("p", [{"role": "user", "content": "Hi"}], texts)])


def test_task_that_closes_within_the_second_of_its_deadline_is_closed(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, people(deadline_hours=0.00021, min_share=0.0))  # 0.756 s
    with pytest.raises(RoundWaits):
        judge.judge(GROUPS)
    task = the_task(tmp_path)
    assert task.deadline is not None
    at = datetime.fromisoformat(task.deadline).replace(microsecond=0).isoformat()
    close(tmp_path, vote(item_of(task, "a").item_id, "anna", "first"), closed="deadline", at=at)
    assert judge.judge(GROUPS)


def test_round_whose_deadline_passed_without_a_page_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RoundWaits, match=r"for the page, which must run, to close them: it was due at 20\d\d-"):
        judge_of(tmp_path, people(deadline_hours=1e-9)).judge(GROUPS)


def test_quota_below_the_share_for_the_deadline_is_enough(tmp_path: Path) -> None:
    judge = judge_of(tmp_path, people(quota=0.5, min_share=0.9))
    with pytest.raises(RoundWaits):
        judge.judge(GROUPS)
    close(tmp_path, vote(item_of(the_task(tmp_path), "a").item_id, "anna", "first"))
    assert judge.judge(GROUPS)


def test_people_who_fail_the_gold_questions_are_not_counted_and_told_of(tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    rows = [{"prompt": f"Is {n} even?", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(10)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = judge_of(tmp_path / "campaign", people(gold=str(gold)))
    with pytest.raises(RoundWaits):
        judge.judge(GROUPS)
    task = the_task(tmp_path / "campaign")
    questions = [item for item in task.items if item.gold is not None]
    assert len(questions) == 10
    assert {item.first if item.gold == "first" else item.second for item in questions} == {
        f"yes {n}" for n in range(10)
    }
    asked = item_of(task, "a").item_id
    wrong = {"first": "second", "second": "first"}
    votes = [vote(item.item_id, "anna", str(item.gold)) for item in questions]
    votes += [vote(item.item_id, "rob", wrong[str(item.gold)]) for item in questions]
    votes += [vote(asked, "anna", "first"), vote(asked, "rob", "second")]
    config = PeopleConfig()
    counted = counted_votes(task, Votes(task=task.task, closed="quota", closed_at=NOW, votes=tuple(votes)), config)
    assert counted.votes == {asked: {"anna": 1.0}}
    assert [counted.report.annotators[name].is_counted for name in ("anna", "rob")] == [True, False]
    right = counted.report.annotators["rob"].gold
    assert right is not None
    assert (right.value, right.n) == (0.0, 10)
    few = Votes(task=task.task, closed="quota", closed_at=NOW, votes=tuple(votes[10:12]) + tuple(votes[-1:]))
    assert counted_votes(task, few, config).report.annotators["rob"].is_counted  # two wrong answers may be bad luck


def test_gold_follows_the_label_and_a_tie_is_no_known_answer(tmp_path: Path) -> None:
    labels: list[dict[str, float]] = [{"p": 0.9}, {"p": 0.1}, {"p": 0.5}, {"margin": 0.0}, {"margin": 2.0}]
    rows = [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no"} | label for n, label in enumerate(labels)]
    path = tmp_path / "gold.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = {item.messages[0]["content"]: item for item in gold_items(PeopleConfig(gold=str(path)))}
    better = {question: item.first if item.gold == "first" else item.second for question, item in known.items()}
    assert better == {"Q0": "yes", "Q1": "no", "Q4": "yes"}


def test_many_votes_weigh_people_by_their_reliability() -> None:
    """A careless person's votes count less than the agreement of the others, by `auto`, only with many votes."""
    votes = {
        f"{number:02d}": {"anna": float(number % 2), "ben": float(number % 2), "coin": float(number // 2 % 2)}
        for number in range(40)
    }
    votes["99"] = {"anna": 1.0, "coin": 0.0}
    assert probabilities(votes, "majority")["99"] == 0.5
    assert probabilities(votes, "auto")["99"] > 0.9
    few = {name: cast for name, cast in votes.items() if name in ("00", "99")}
    assert probabilities(few, "auto")["99"] == 0.5


def test_people_as_a_juror_are_asked_before_the_others(tmp_path: Path) -> None:
    class Unasked(Exception):
        pass

    config = JudgeConfig.model_validate(
        {"kind": "jury", "jurors": [{"kind": "rule"}, {"kind": "people", "people": {"overlap_share": 0}}]}
    )
    judge = judge_of(tmp_path, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.judges.rule.load", lambda *_: (_ for _ in ()).throw(Unasked()))
        with pytest.raises(RoundWaits):
            judge.judge(GROUPS)


def test_task_whose_writing_was_killed_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(RoundWaits):
        judge_of(tmp_path, people()).judge(GROUPS)
    task = the_task(tmp_path)
    (tmp_path / LABELLING / task.task / "task.json").unlink()
    with pytest.raises(RoundWaits):
        judge_of(tmp_path, people()).judge(GROUPS)
    assert the_task(tmp_path).items == task.items


def test_more_votes_per_pair_keep_the_task_and_another_rubric_asks_anew(tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Be strict.")
    tasks = []
    for fields in ({}, {"votes_per_pair": 2}, {"rubric": str(rubric)}):
        with pytest.raises(RoundWaits):
            judge_of(tmp_path, people(**fields)).judge(GROUPS)
        tasks.append(the_task(tmp_path))
    assert [task.votes_per_item for task in tasks] == [1, 2, 1]
    assert tasks[0].task == tasks[1].task != tasks[2].task


def test_identity_of_the_judge_follows_what_people_read_and_not_how_long_they_have(tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.md"
    rubric.write_text("Be strict.")
    plain = judge_digest(people())
    assert judge_digest(people(quota=0.5, deadline_hours=3)) == plain
    strict = judge_digest(people(rubric=str(rubric)))
    assert strict != plain
    rubric.write_text("Be lenient.")
    assert judge_digest(people(rubric=str(rubric))) != strict
    assert judge_digest(people(votes_per_pair=3)) != plain


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rubric": "missing.md"}, r"people.rubric = missing.md cannot be read .*name a Markdown file"),
        ({"gold": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_unusable_file_is_refused_in_one_line(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        check_judge(people(**fields))
    assert "\n" not in str(refused.value)


def test_gold_without_a_known_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"prompt": "x", "chosen": "a", "rejected": "b", "p": 0.5}) + "\n")
    with pytest.raises(ValueError, match=r"people.gold = .* has no pair with a known better answer"):
        gold_items(PeopleConfig(gold=str(path)))


@pytest.mark.parametrize(
    "config",
    [
        {"judge": {"kind": "jury", "jurors": [{"kind": "people"}, {"kind": "people"}]}},
        {"judge": {"kind": "people"}},
        {"evaluation_judge": {"kind": "people"}},
        {"holdout_judge": {"kind": "people"}},
        {
            "judge": {"kind": "people"},
            "evaluation_judge": {"kind": "rule"},
            "active": {"budget": 4, "judge": {"kind": "people"}},
        },
    ],
)
def test_people_where_nobody_waits_for_them_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="people"):
        CampaignConfig.model_validate({"campaign": "x", **config})


def test_campaign_of_people_with_another_evaluation_judge_is_taken() -> None:
    config = CampaignConfig.model_validate(
        {"campaign": "x", "judge": {"kind": "people"}, "evaluation_judge": {"kind": "rule"}}
    )
    assert config.judge.asks_people


def test_item_is_the_same_for_the_same_texts_in_another_round(tmp_path: Path) -> None:
    names = []
    for name in ("one", "two"):
        with pytest.raises(RoundWaits):
            judge_of(tmp_path / name, people()).judge(GROUPS[:1])
        names.append([item.item_id for item in the_task(tmp_path / name).items])
    assert names[0] == names[1] == [item_id(GROUPS[0].messages, "a", "b")]
    assert isinstance(judge_of(tmp_path, people()), PeopleJudge)
    assert datetime.now(UTC).isoformat() > the_task(tmp_path / "one").created_at
    assert votes_needed(the_task(tmp_path / "one"), the_task(tmp_path / "one").items[0]) == 1
