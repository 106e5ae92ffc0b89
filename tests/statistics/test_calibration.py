"""Accuracy, reliability and Brier score, by hand."""

import math

import pytest

from components.statistics.calibration import Prediction, brier, quality, reliability

SURE = math.log(0.9 / 0.1)
"""Margin at which the chosen answer is preferred with probability 0.9."""


def predictions(*margins: float, p: float = 1.0) -> list[Prediction]:
    return [Prediction(f"p{number}", margin, p, "style") for number, margin in enumerate(margins)]


def test_quality_counts_a_right_order_as_one_and_a_tie_as_half() -> None:
    found = quality(predictions(2.0, 0.1, 0.0, -1.0), confidence=0.95, resamples=200, seed=1)
    assert (found.accuracy.value, found.accuracy.n, found.num_pairs) == (0.625, 4, 4)
    assert found.accuracy.low < 0.5 < found.accuracy.high


def test_quality_takes_the_rejected_answer_for_the_better_one_below_a_probability_of_one_half() -> None:
    margins = (2.0, 0.1, 0.1, -1.0)
    swapped, undecided = (
        quality(predictions(*margins, p=p), confidence=0.95, resamples=200, seed=1) for p in (0.2, 0.5)
    )
    assert (swapped.accuracy.value, undecided.accuracy.value) == (0.25, 0.5)


def test_quality_counts_each_prompt_once() -> None:
    several = [Prediction("same", 1.0, 1.0, "a")] * 9 + [Prediction("other", -1.0, 1.0, "a")]
    assert quality(several, confidence=0.95, resamples=200, seed=1).accuracy.value == 0.5


def test_reliability_compares_how_sure_with_how_often_right() -> None:
    (only,) = reliability([SURE + 0.1] * 8 + [-SURE - 0.1] * 2, [1.0] * 10)
    assert only.num_pairs == 10
    assert only.predicted == pytest.approx(1 / (1 + math.exp(-SURE - 0.1)))
    assert (only.low, only.high) == (pytest.approx(0.9), pytest.approx(0.95))
    assert only.observed == pytest.approx(0.8)
    # Clopper and Pearson's bounds of 8 in 10.
    assert (only.observed_low, only.observed_high) == (pytest.approx(0.4439, abs=1e-4), pytest.approx(0.9748, abs=1e-4))


def test_reliability_does_not_depend_on_which_answer_stands_as_chosen() -> None:
    margins, labels = [2.0, -0.3, 1.0, -4.0], [1.0, 0.8, 0.4, 0.0]
    swapped = reliability([-margin for margin in margins], [1 - label for label in labels])
    assert [each.model_dump() for each in swapped] == [
        pytest.approx(each.model_dump()) for each in reliability(margins, labels)
    ]


def test_calibration_error_of_a_model_that_is_as_sure_as_right_is_zero() -> None:
    found = quality(predictions(*[SURE] * 9, -SURE), confidence=0.95, resamples=200, seed=1)
    assert found.calibration_error == pytest.approx(0, abs=1e-9)
    boasting = quality(predictions(*[20.0] * 9, -20.0), confidence=0.95, resamples=200, seed=1)
    assert boasting.calibration_error == pytest.approx(0.1, abs=1e-6)


def test_calibration_of_soft_labels_is_in_expectation() -> None:
    found = quality(predictions(*[math.log(0.7 / 0.3)] * 3, p=0.7), confidence=0.95, resamples=200, seed=1)
    assert found.calibration_error == pytest.approx(0, abs=1e-9)
    assert found.brier == pytest.approx(0.7 * 0.09 + 0.3 * 0.49)


def test_brier_of_a_coin_is_a_quarter_and_of_certainty_that_is_right_nothing() -> None:
    assert brier([0.0, 0.0], [1.0, 0.3]) == pytest.approx(0.25)
    assert brier([50.0, -50.0], [1.0, 0.0]) == pytest.approx(0, abs=1e-9)
    assert brier([-50.0], [1.0]) == pytest.approx(1)
