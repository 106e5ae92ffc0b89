"""The win rate at equal length: worked values, symmetry, and outcomes that length alone explains."""

import math

import numpy as np
import pytest

from components.statistics.length_control import length_controlled_win_rate

SETTINGS = {"confidence": 0.95, "resamples": 400, "seed": 3}


def drawn(advantage: float, slope: float, number: int) -> tuple[list[float], list[float]]:
    chance = np.random.default_rng(5)
    differences = chance.normal(40, 100, number)
    preference = 1 / (1 + np.exp(-(advantage + slope * np.tanh(differences / differences.std()))))
    return (chance.random(number) < preference).astype(float).tolist(), differences.tolist()


def test_length_control_at_equal_lengths_is_the_win_rate() -> None:
    found = length_controlled_win_rate([1.0, 1.0, 1.0, 0.0] * 50, [0.0] * 200, **SETTINGS)
    # The prior of scale 10 pulls the log odds of 3 to 1 by about log(3) / 100 / (200 * 3/16).
    assert found.value == pytest.approx(0.75, abs=2e-4)
    assert found.low < 0.7 < 0.8 < found.high
    assert found.n == 200


def test_length_control_recovers_what_the_outcomes_were_drawn_from() -> None:
    outcomes, differences = drawn(0.4, 2.0, 20_000)
    found = length_controlled_win_rate(outcomes, differences, **SETTINGS)
    assert np.mean(outcomes) > 0.65
    assert found.value == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.01)
    assert found.low < 1 / (1 + math.exp(-0.4)) < found.high


def test_length_control_of_a_model_that_wins_by_length_alone_is_one_half() -> None:
    outcomes, differences = drawn(0.0, 3.0, 20_000)
    assert np.mean(outcomes) > 0.6
    assert length_controlled_win_rate(outcomes, differences, **SETTINGS).value == pytest.approx(0.5, abs=0.01)


def test_length_control_of_swapped_sides_is_mirrored() -> None:
    outcomes, differences = drawn(0.7, 1.0, 300)
    found = length_controlled_win_rate(outcomes, differences, **SETTINGS)
    swapped = length_controlled_win_rate(
        [1 - outcome for outcome in outcomes], [-difference for difference in differences], **SETTINGS
    )
    assert swapped.value == pytest.approx(1 - found.value, abs=1e-12)
    assert swapped.low == pytest.approx(1 - found.high, abs=1e-12)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_length_control_of_a_model_that_always_wins_or_loses_is_finite(outcome: float) -> None:
    found = length_controlled_win_rate([outcome] * 60, list(range(60)), **SETTINGS)
    assert found.value == pytest.approx(outcome, abs=0.01)
    assert 0 < found.low <= found.value <= found.high < 1


def test_length_control_of_nothing_or_of_unequal_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="0 outcomes and 0 differences"):
        length_controlled_win_rate([], [], **SETTINGS)
    with pytest.raises(ValueError, match="2 outcomes and 1 differences"):
        length_controlled_win_rate([1.0, 0.0], [3.0], **SETTINGS)
