"""Verdicts and the scores read from them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.messages import Messages
from components.judges.protocol import Group, Opinion, Verdict, judge_alone, make_verdict, scores

GROUP = Group("p", [{"role": "user", "content": "Hi"}], ((0, "a"), (1, "b"), (2, "c")))


def compared(first: int, second: int, score: float | None) -> Verdict:
    return make_verdict("judge", GROUP, first, Opinion(score), opponent_id=second)


def test_scores_of_a_judge_that_compares_count_both_sides() -> None:
    verdicts = [compared(0, 1, 1.0), compared(1, 0, 0.5), compared(0, 2, 0.75)]
    assert scores(verdicts) == pytest.approx({("p", 0): (1 + 0.5 + 0.75) / 3, ("p", 1): (0 + 0.5) / 2, ("p", 2): 0.25})


def test_scores_without_a_valid_verdict_are_absent() -> None:
    verdicts = [
        make_verdict("judge", GROUP, 0, Opinion(2.0)),
        make_verdict("judge", GROUP, 1, Opinion(None, "unreadable")),
        compared(1, 2, None),
    ]
    assert scores(verdicts) == {("p", 0): 2.0}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0, 1)).filter(lambda item: item[0] != item[1]))
)
def test_scores_of_swapped_comparisons_are_the_same(comparisons: list[tuple[int, int, float]]) -> None:
    forward = scores(compared(first, second, score) for first, second, score in comparisons)
    backward = scores(compared(second, first, 1 - score) for first, second, score in comparisons)
    assert forward == pytest.approx(backward)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_verdict_with_a_score_that_is_not_finite_is_invalid(score: float) -> None:
    verdict = make_verdict("judge", GROUP, 0, Opinion(score))
    assert (verdict.status, verdict.score) == ("invalid", None)
    assert "not finite" in verdict.detail


def test_verdict_of_a_comparison_outside_its_range_is_invalid() -> None:
    assert compared(0, 1, 1.5).status == "invalid"
    assert make_verdict("judge", GROUP, 0, Opinion(1.5)).status == "ok"


def test_verdict_id_changes_with_everything_that_was_judged_or_said() -> None:
    one = make_verdict("judge", GROUP, 0, Opinion(1.0)).verdict_id
    assert one == make_verdict("judge", GROUP, 0, Opinion(1.0)).verdict_id
    others = [
        make_verdict("other", GROUP, 0, Opinion(1.0)),
        make_verdict("judge", GROUP, 1, Opinion(1.0)),
        make_verdict("judge", GROUP, 0, Opinion(2.0)),
        make_verdict("judge", GROUP, 0, Opinion(1.0), opponent_id=1),
        make_verdict("judge", replace(GROUP, prompt_id="q"), 0, Opinion(1.0)),
        make_verdict("judge", replace(GROUP, responses=((0, "changed"),)), 0, Opinion(1.0)),
        make_verdict("judge", replace(GROUP, messages=[{"role": "user", "content": "Bye"}]), 0, Opinion(1.0)),
    ]
    assert len({one, *(verdict.verdict_id for verdict in others)}) == len(others) + 1


def test_equal_texts_are_scored_once_and_only_within_one_conversation() -> None:
    asked: list[tuple[str, str]] = []

    def score(distinct: Sequence[tuple[Messages, str]]) -> list[Opinion]:
        asked.extend((messages[-1]["content"], text) for messages, text in distinct)
        return [Opinion(float(len(asked))) for _ in distinct]

    other = Group("q", [{"role": "user", "content": "Bye"}], ((0, "a"), (1, "a")))
    again = replace(GROUP, prompt_id="r", responses=((5, "a"),))
    verdicts = judge_alone("judge", [GROUP, other, again], score)
    assert asked == [("Hi", "a"), ("Hi", "b"), ("Hi", "c"), ("Bye", "a")]
    assert [(v.prompt_id, v.sample_id) for v in verdicts] == [
        ("p", 0),
        ("p", 1),
        ("p", 2),
        ("q", 0),
        ("q", 1),
        ("r", 5),
    ]
