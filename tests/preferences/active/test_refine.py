"""A costly judge's verdict replaces the judge's, for the pairs that were chosen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from components.config import ActiveConfig, PreferencesConfig
from components.data.prompts import prompt_id
from components.judges.jury import Juror, JuryJudge
from components.judges.protocol import Group, Judge, Opinion, SampledTokens, Verdict, conclude_pair, make_verdict
from components.preferences.active.refine import COSTLY, CostlyJudge, RefinedPairs, refine
from components.preferences.judged_pairs import build_pairs
from components.preferences.no_pairs import costly_step
from components.records import JudgeUnavailable


def group(number: int, *texts: str) -> Group:
    messages = [{"role": "user", "content": f"question {number}"}]
    return Group(prompt_id(messages), messages, tuple(enumerate(texts)))


GROUPS = [group(0, "a", "bbbb"), group(1, "cc", "ddd"), group(2, "eee", "ff"), group(3, "g", "hhhhhhh")]


class Scoring:
    """Scores texts, and records the groups that it judged."""

    name = "scoring"

    def __init__(self, score: Callable[[str], float]) -> None:
        self._score = score
        self.asked: list[tuple[str, ...]] = []

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        self.asked += [tuple(text for _, text in one.responses) for one in groups]
        return [
            make_verdict(self.name, one, number, Opinion(self._score(text)))
            for one in groups
            for number, text in one.responses
        ]


class Comparing:
    """Prefers the longer of two texts, with a fixed probability."""

    name = "comparing"

    def __init__(self, p: float | None) -> None:
        self._p = p

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        found = []
        for one in groups:
            (second, other), (first, text) = one.responses
            p = None if self._p is None else self._p if len(text) > len(other) else 1 - self._p
            found += conclude_pair(
                self.name, one, first, second, forward=Opinion(p), backward=Opinion(None if p is None else 1 - p)
            )
        return found


LENGTH = Scoring(len)
BY_ONE = Scoring(lambda text: float(text in ("bbbb", "ddd", "eee", "hhhhhhh")))


def refined(
    costly: Judge, active: dict[str, Any], cheap: Judge = LENGTH, closeness: Judge | None = None, **preferences: Any
) -> RefinedPairs:
    config = PreferencesConfig.model_validate({"max_invalid_share": 1.0, **preferences})
    verdicts = cheap.judge(GROUPS)
    rows = build_pairs(GROUPS, verdicts, judge=cheap.name, preferences=config, seed=1).rows
    settings = ActiveConfig.model_validate({"choose_by": "disagreement", **active})
    return refine(rows, GROUPS, verdicts, costly=CostlyJudge(costly, settings, closeness), preferences=config, seed=1)


def pairs(found: RefinedPairs) -> list[tuple[str, str, float, float]]:
    return [(row["chosen"], row["rejected"], row["p"], row["margin"]) for row in found.rows]


def test_costly_judge_sees_the_closest_pairs_in_the_order_of_their_samples_and_turns_what_it_sees_otherwise() -> None:
    shortest = Scoring(lambda text: -2.0 * len(text))
    found = refined(shortest, {"budget": 2})
    assert shortest.asked == [("cc", "ddd"), ("eee", "ff")]
    assert pairs(found) == [
        ("bbbb", "a", 1.0, 3.0),
        ("cc", "ddd", 1.0, 2.0),
        ("ff", "eee", 1.0, 2.0),
        ("hhhhhhh", "g", 1.0, 6.0),
    ]
    expected = {"budget": 2, "choose_by": "disagreement", "candidates": 4, "asked": 2}
    assert found.counts == expected | {
        "agreed": 0,
        "flipped": 2,
        "ties": 0,
        "invalid": 0,
        "dropped": 0,
        "chosen_cut": 0,
    }
    assert len({row["pair_id"] for row in found.rows}) == 4


def test_costly_judges_verdicts_are_cited_and_are_no_conclusions_of_the_judge() -> None:
    found = refined(Comparing(0.9), {"budget": 1})
    (row,) = [row for row in found.rows if row["judge"] == "comparing"]
    assert {verdict.part for verdict in found.verdicts} == {COSTLY, f"{COSTLY}/forward", f"{COSTLY}/backward"}
    assert row["verdict_ids"] == [verdict.verdict_id for verdict in found.verdicts if verdict.part == COSTLY]


@pytest.mark.parametrize(("ties", "rows"), [("drop", 2), ("half", 4)])
def test_pair_that_the_costly_judge_finds_tied_is_dropped_or_kept_as_half(ties: str, rows: int) -> None:
    found = refined(Comparing(0.5), {"budget": 2}, ties=ties)
    assert len(found.rows) == rows
    assert [p for *_, p, _ in pairs(found)].count(0.5) == rows - 2
    assert (found.counts["ties"], found.counts["dropped"]) == (2, 4 - rows)


@pytest.mark.parametrize(("rest", "kept"), [("keep", 4), ("drop", 0)])
def test_pair_that_the_costly_judge_cannot_judge_is_treated_as_if_not_asked(rest: str, kept: int) -> None:
    found = refined(Scoring(lambda text: math.nan), {"budget": 2, "rest": rest})
    assert (found.counts["invalid"], found.counts["dropped"], len(found.rows)) == (2, 4 - kept, kept)
    assert {row["judge"] for row in found.rows} <= {"scoring"}


def test_pairs_that_were_not_asked_about_can_be_dropped() -> None:
    found = refined(Comparing(0.9), {"budget": 3, "rest": "drop"})
    assert len(found.rows) == found.counts["agreed"] == 3


def test_costly_judge_that_gives_too_few_verdicts_stops_the_round() -> None:
    with pytest.raises(JudgeUnavailable, match="comparing"):
        refined(Comparing(None), {"budget": 2}, max_invalid_share=0.4)


def test_choice_by_closeness_asks_for_the_implicit_rewards_of_the_pairs() -> None:
    implicit = Scoring(lambda text: 0.0 if text in ("a", "bbbb") else float(len(text)))
    costly = Scoring(len)
    refined(costly, {"budget": 1, "choose_by": "closeness"}, closeness=implicit)
    assert costly.asked == [("a", "bbbb")]
    assert len(implicit.asked) == 4


@pytest.mark.parametrize(
    ("labels", "costly", "p"),
    [
        ("verdict", Comparing(0.8), 0.8),
        ("verdict", Comparing(0.3), 0.7),
        ("bradley_terry", BY_ONE, 1 / (1 + math.exp(-1))),
    ],
)
def test_label_of_a_pair_comes_from_who_was_asked_last(labels: str, costly: Judge, p: float) -> None:
    jury = JuryJudge([Juror(lambda: Comparing(1.0), 1.0), Juror(lambda: Comparing(0.9), 1.0)], votes="majority")
    found = refined(costly, {"budget": 1}, cheap=jury, soft_labels=labels)
    (asked,) = [row for row in found.rows if row["judge"] == costly.name]
    assert asked["p"] == pytest.approx(p)
    if labels == "verdict":
        assert [row["p"] for row in found.rows if row["judge"] == jury.name] == [pytest.approx((1.9 + 1) / 4)] * 3


def test_disagreement_of_a_jury_is_what_sends_a_pair_to_the_costly_judge() -> None:
    jurors = [Comparing(1.0), Comparing(1.0), Scoring(lambda text: -1.0 if text == "hhhhhhh" else float(len(text)))]
    jury = JuryJudge([Juror(lambda judge=judge: judge, 1.0) for judge in jurors], votes="majority")  # type: ignore[misc]
    costly = Scoring(len)
    refined(costly, {"budget": 1}, cheap=jury)
    assert costly.asked == [("g", "hhhhhhh")]


def test_costly_judge_cannot_make_a_cut_answer_the_chosen_one() -> None:
    whole, cut = ({number: SampledTokens((7,), reason, None) for number in range(2)} for reason in ("stop", "length"))
    for tokens, num_rows in ((whole, 1), (cut | {1: whole[1]}, 0)):
        pair = replace(GROUPS[0], tokens=tokens)
        config = PreferencesConfig(max_invalid_share=1.0, cut_responses="rejected")
        verdicts = LENGTH.judge([pair])
        rows = build_pairs([pair], verdicts, judge="scoring", preferences=config, seed=0).rows
        assert [row["chosen"] for row in rows] == ["bbbb"]
        costly = CostlyJudge(Scoring(lambda text: -len(text)), ActiveConfig(budget=1, choose_by="random"), None)
        again = refine(rows, [pair], verdicts, costly=costly, preferences=config, seed=0)
        assert (again.counts["flipped"], len(again.rows), again.counts["dropped"]) == (1, num_rows, 1 - num_rows)
        told = costly_step(1, again.counts, rest="keep", preferences=config).text
        assert ("1 x the length limit cut the answer that the costly judge prefers" in told) == (not num_rows)
