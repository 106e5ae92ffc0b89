"""Pairs by the votes of several annotators, worked out by hand."""

import pytest

from components.data.forms.rated import Choice
from components.data.forms.votes import Vote, pairs_by_votes

ASK = [{"role": "user", "content": "Hi"}]
ANSWERS = {"a": "A.", "b": "B.", "c": "C."}
# a before b, a before c and b before c by two of three each: a wins 4/3, b 1, c 2/3.
RANKINGS: list[Vote] = [{"a": 3, "b": 2, "c": 1}, {"a": 3, "b": 1, "c": 2}, {"a": 1, "b": 3, "c": 2}]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("best_worst", [("A.", "C.")]), ("all_pairs", [("A.", "B."), ("A.", "C."), ("B.", "C.")])],
)
def test_votes_order_the_answers_and_p_is_the_share(choice: Choice, expected: list[tuple[str, str]]) -> None:
    pairs = pairs_by_votes(ASK, ANSWERS, RANKINGS, choice, place="row 1")
    assert [(pair.chosen, pair.rejected) for pair in pairs] == expected
    assert [pair.p for pair in pairs] == pytest.approx([2 / 3] * len(expected))
    assert [pair.margin for pair in pairs] == [None] * len(expected)


def test_votes_of_one_annotator_are_certain_and_an_equal_place_is_a_tie() -> None:
    better, tied = (
        pairs_by_votes(ASK, {"a": "A.", "b": "B."}, [vote], "best_worst", place="row 1", tag="style")[0]
        for vote in ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 1.0})
    )
    assert (better.chosen, better.p, better.margin, better.tag) == ("B.", None, None, "style")
    assert (tied.chosen, tied.p, tied.margin) == ("A.", 0.5, 0.0)


def test_votes_pair_only_answers_that_every_annotator_scored() -> None:
    votes: list[Vote] = [{"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 2.0}]
    (pair,) = pairs_by_votes(ASK, ANSWERS, votes, "all_pairs", place="row 1")
    assert (pair.chosen, pair.rejected, pair.p) == ("B.", "A.", 1.0)
    assert pairs_by_votes(ASK, ANSWERS, [{"a": 1.0}], "best_worst", place="row 1") == []
