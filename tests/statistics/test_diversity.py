"""Diversity of responses, worked by hand."""

import pytest

from components.statistics.diversity import distinct, measure_diversity


def test_distinct_counts_ngrams_within_responses_over_all_of_them() -> None:
    """1 2 1 2 and 2 3: six tokens of three kinds; the pairs 12 21 12 and 23 are four of three kinds, not 22 between."""
    rows = [[1, 2, 1, 2], [2, 3]]
    assert distinct(rows, 1) == 3 / 6
    assert distinct(rows, 2) == 3 / 4
    assert distinct(rows, 4) == 1.0
    assert distinct(rows, 5) is None


def test_distinct_of_nothing_is_absent_and_not_zero() -> None:
    assert distinct([[], []], 1) is None
    assert distinct([[7]], 2) is None


def test_equal_samples_are_the_chance_that_two_samples_of_a_prompt_are_equal() -> None:
    """aabc: one of six pairs; aaaa: six of six; ab: none of one. A prompt with one sample has no pair."""
    measured = measure_diversity([[1]], [["a", "a ", "b", "c"], ["a"] * 4, ["a", "b"], ["a"]])
    assert measured.equal_samples == pytest.approx((1 / 6 + 1 + 0) / 3)
    assert measured.all_equal == pytest.approx(1 / 3)


def test_equal_samples_of_prompts_with_one_sample_each_are_absent() -> None:
    """An evaluation samples once a prompt: a share of 0 would say that it does not repeat itself."""
    measured = measure_diversity([[1, 2], [1, 2]], [["a"], ["a"]])
    assert (measured.equal_samples, measured.all_equal) == (None, None)
    assert (measured.distinct_1, measured.distinct_2) == (0.5, 0.5)


def test_distinct_tells_pairs_of_any_ids_apart() -> None:
    """Numbered by `first x base + second`, a base below the largest id would merge (1, 0) and (0, 151000)."""
    assert distinct([[1, 0], [0, 151_000], [151_000, 1], [1, 0]], 2) == 3 / 4
