"""Checks of judgements, lengths and balance, on values worked by hand."""

from typing import Any

import pytest

from tests.checks.conftest import Checker, Rows, of


def pair(chosen: str, rejected: str, **values: Any) -> dict[str, Any]:
    return {"prompt": "Which of these is better?", "chosen": chosen, "rejected": rejected, **values}


def test_contradiction_names_both_pairs_and_no_other(check: Checker) -> None:
    result = check([pair("A", "B"), pair("B", "A"), pair("A", "C")])
    assert of(result, "contradictions").details == {"contradicts another pair": 2}
    assert list(result.rejected) == [0, 1]


def test_contradiction_of_another_prompt_is_none(check: Checker) -> None:
    other = {**pair("B", "A"), "prompt": "And which of those?"}
    assert of(check([pair("A", "B"), other]), "contradictions").found == 0


def test_circle_of_three_is_found_and_a_chain_is_not(check: Checker) -> None:
    chain: Rows = [pair("A", "B"), pair("B", "C")]
    assert of(check(chain), "contradictions").found == 0
    circle = of(check([*chain, pair("C", "A"), pair("A", "D")]), "contradictions")
    assert circle.details == {"is part of a circle of preferences": 3}


def test_consistency_counts_the_minority_by_annotator(check: Checker) -> None:
    # Ten questions that three annotators answer; the third contradicts the others on five of them.
    rows = [
        {**pair("A", "B"), "prompt": f"Question {n}", "annotator": name} for n in range(10) for name in ("one", "two")
    ]
    rows += [
        {**(pair("B", "A") if n < 5 else pair("A", "B")), "prompt": f"Question {n}", "annotator": "three"}
        for n in range(10)
    ]
    consistency = of(check(rows), "consistency")
    assert consistency.share == pytest.approx(5 / 30)
    assert [(bar.label, bar.share) for bar in consistency.bars] == [("three", 0.5), ("two", 0.0), ("one", 0.0)]


def test_length_bias_is_what_a_judge_of_length_scores(check: Checker) -> None:
    # 24 longer, 4 of equal length, 12 shorter: (24 + 2) / 40.
    rows = [pair("aaaa", "b")] * 24 + [pair("aa", "bb")] * 4 + [pair("a", "bbbb")] * 12
    bias = of(check(rows), "length_bias")
    assert bias.share == pytest.approx(0.65)
    assert bias.verdict == "pass"
    assert "prefers the longer answer is right in 65.0%" in bias.summary


def test_length_bias_towards_short_answers_counts_as_much(check: Checker) -> None:
    bias = of(check([pair("a", "bbbb")] * 30), "length_bias")
    assert (bias.share, bias.verdict) == (1.0, "warn")
    assert "prefers the shorter" in bias.summary


def test_balance_measures_the_most_frequent_label(check: Checker) -> None:
    rows = [pair("a", "b", tag="style", source="web")] * 19 + [pair("a", "b", tag="safety", source="web")]
    result = check(rows)
    assert of(result, "tag_balance").share == pytest.approx(0.95)
    assert of(result, "tag_balance").verdict == "warn"
    assert of(result, "source_balance").verdict == "skipped"


def test_coverage_measures_the_most_frequent_prompt(check: Checker) -> None:
    rows = [{**pair("a", f"b{n}"), "prompt": f"Question {min(n, 20)}"} for n in range(30)]
    coverage = of(check(rows), "prompt_coverage")
    assert coverage.share == pytest.approx(10 / 30)
    assert "30 rows have 21 different prompts" in coverage.summary


def test_duplicate_pair_of_two_annotators_is_an_agreement(check: Checker) -> None:
    rows = [pair("a", "b", annotator="x"), pair("a", "b", annotator="y"), pair("a ", "b\n", annotator="x")]
    duplicates = of(check(rows), "duplicate_pairs")
    assert duplicates.found == 1
    assert duplicates.examples[0].detail == "repeats the pair of an earlier row (line 1)"


def test_single_responses_are_checked_and_never_compared(check: Checker) -> None:
    rows = [{"prompt": "Why is that so?", "completion": "Because.", "label": good} for good in (True, False)]
    result = check([*rows, {"prompt": "And that?", "completion": "", "label": True}])
    assert of(result, "identical_answers").found == 0
    assert result.rejected == {2: "empty_answers: the chosen answer is empty"}
