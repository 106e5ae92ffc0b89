"""What the report says of people, and when it raises an alarm about a judge."""

from types import SimpleNamespace
from typing import Any

import pytest

from components.records import Interval, PeopleSummary, RoundRecord
from components.report.people import ANNOTATOR_HEADINGS, HEADINGS, annotator_rows, judge_alarms, people_rows

AGREEMENT = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 20}


def agreement(value: float, n: int = 200) -> Interval:
    return Interval(value=value, low=value - 0.06, high=value + 0.06, n=n)


def record(round: int, judges: dict[str, Interval] | None, among: Interval | None = None) -> RoundRecord:
    rate = Interval(value=0.6, low=0.5, high=0.7, n=100)
    people = None if judges is None else PeopleSummary(labelled=200, annotators=3, agreement=among, judges=judges)
    return RoundRecord(
        round=round,
        promoted=True,
        reasons=(),
        num_pairs=10,
        win_rate_vs_champion=rate,
        win_rate_vs_start=rate,
        kl_to_start=0.1,
        mean_tokens=20.0,
        mean_reward=None,
        seconds={},
        policy_digest="a" * 64,
        reference_digest="b" * 64,
        people=people,
    )


def test_judge_that_agrees_less_than_in_earlier_rounds_drifts() -> None:
    earlier = [record(1, {"llm": agreement(0.8)}), record(2, None), record(3, {"llm": agreement(0.78)})]
    (alarm,) = judge_alarms([*earlier, record(4, {"llm": agreement(0.6)})])
    assert "judge llm agrees with people on 60.0 % (54.0 % to 66.0 %) of the pairs" in alarm
    assert "in earlier rounds on 79.0 %" in alarm
    assert "drifts" in alarm


@pytest.mark.parametrize("now", [0.8, 0.74, 0.95])
def test_judge_within_the_noise_of_earlier_rounds_raises_no_alarm(now: float) -> None:
    assert not judge_alarms([record(1, {"llm": agreement(0.8)}), record(2, {"llm": agreement(now)})])


def test_judge_that_agrees_less_than_people_do_raises_an_alarm() -> None:
    (alarm,) = judge_alarms([record(1, {"llm": agreement(0.6)}, among=agreement(0.85))])
    assert "and people with each other on 85.0 %" in alarm


def test_other_judges_and_rounds_without_people_say_nothing_of_a_judge() -> None:
    assert not judge_alarms([])
    assert not judge_alarms([record(1, {"llm": agreement(0.9)}), record(2, None)])
    assert not judge_alarms([record(1, {"old": agreement(0.9)}), record(2, {"new": agreement(0.5)})])


def files(**changes: Any) -> Any:
    annotator = {"votes": 9, "skips": 1, "gold": None, "is_counted": True, "median_seconds": 4.25, "left_share": None}
    people = {
        "asked": 12,
        "labelled": 11,
        "annotators": {"anna": annotator | {"agreement": AGREEMENT}, "rob": annotator | {"agreement": None}},
        "agreement": AGREEMENT,
        "krippendorff_alpha": 0.5,
        "judges": {"rule:x": {"agreement": AGREEMENT, "cohen_kappa": 0.25, "pairs": 11}},
    }
    return SimpleNamespace(people=people | changes)


def test_rows_name_each_judge_and_each_person() -> None:
    (row,) = people_rows(files())
    assert dict(zip(HEADINGS, row, strict=True)) == {
        "pairs": "12",
        "with votes": "11",
        "people": "2",
        "people agree": "75 % (50–90)",
        "Krippendorff's alpha": "0.50",
        "judge": "rule:x",
        "agrees with people": "75 % (50–90)",
        "Cohen's kappa": "0.25",
    }
    rows = annotator_rows(files())
    assert [len(row) for row in rows] == [len(ANNOTATOR_HEADINGS)] * 2
    assert rows[0] == ("anna", "9", "1", "–", "75 % (50–90)", "–", "4.2")


def test_people_without_another_judge_still_have_a_row_and_nobody_has_none() -> None:
    assert people_rows(files(judges={}))[0][-3:] == ("–", "–", "–")
    assert people_rows(SimpleNamespace(people=None)) == []  # type: ignore[arg-type]
    assert annotator_rows(SimpleNamespace(people=None)) == []  # type: ignore[arg-type]


def test_person_who_is_not_counted_is_marked() -> None:
    people = files().people
    people["annotators"]["rob"]["is_counted"] = False
    assert annotator_rows(SimpleNamespace(people=people))[1][0] == "rob (not counted)"  # type: ignore[arg-type]
    assert people_rows(SimpleNamespace(people=people))[0][2] == "1"  # type: ignore[arg-type]


def test_agreement_of_judges_is_drawn_by_round_and_a_long_name_is_cut() -> None:
    from components.report.charts import _agreements

    name = "llm:a-model-with-a-very-long-name"
    rounds = [record(n, {name: agreement(0.7), "rule:x": agreement(0.6)}, among=agreement(0.8)) for n in (1, 3)]
    svg = str(_agreements(rounds).svg)
    assert "llm:a-model-with-" in svg
    assert name not in svg.replace("round 1 ", "")
    assert "round 3 people: 0.800 (0.740 to 0.860)" in svg
