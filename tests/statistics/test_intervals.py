import math

import numpy as np
import pytest
from scipy.stats import binomtest

from components.records import Interval
from components.statistics.intervals import difference, mean_interval, share, share_change, win_rate


def rate(
    outcomes: list[float] | np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 3
) -> Interval:
    return win_rate(list(outcomes), confidence=confidence, resamples=resamples, seed=seed)


def test_win_rate_is_the_mean_with_ties_half() -> None:
    found = rate([1, 1, 0.5, 0, 0.75, 0.25])
    assert (found.value, found.n) == (pytest.approx(3.5 / 6), 6)
    assert found.low < found.value < found.high


def test_win_rate_of_all_ties_is_exactly_one_half() -> None:
    assert rate([0.5] * 40) == Interval(value=0.5, low=0.5, high=0.5, n=40)


@pytest.mark.parametrize(("wins", "sure"), [(1, False), (3, False), (5, False), (6, True), (200, True)])
def test_win_rate_of_a_few_wins_and_nothing_else_is_no_certainty(wins: int, sure: bool) -> None:
    found = rate([1.0] * wins)
    assert found.low == pytest.approx(0.025 ** (1 / wins))
    assert (found.low > 0.5) == sure
    assert (found.value, found.high) == (1.0, 1.0)


def test_win_rate_with_one_decided_prompt_among_many_ties_is_not_above_one_half() -> None:
    """The plain bootstrap of 5 wins and 95 ties has its lower bound above 0.5."""
    outcomes = [1.0] * 5 + [0.5] * 95
    assert mean_interval(outcomes, confidence=0.95, resamples=1000, seed=3).low > 0.5
    assert rate(outcomes).low < 0.5
    assert rate(outcomes).value == 0.525


@pytest.mark.parametrize(("wins", "losses"), [(9, 1), (8, 2), (7, 3), (20, 8), (20, 9), (30, 15), (31, 14)])
def test_win_rate_lower_bound_above_one_half_needs_the_sign_test(wins: int, losses: int) -> None:
    found = rate([1.0] * wins + [0.5] * 7 + [0.0] * losses)
    assert not (found.low > 0.5 and binomtest(wins, wins + losses).pvalue >= 0.05)


def test_win_rate_bounds_without_ties_hold_the_exact_binomial_interval() -> None:
    exact = binomtest(66, 90).proportion_ci(0.9, method="exact")
    found = rate([1.0] * 66 + [0.0] * 24, confidence=0.9)
    assert found.low <= exact.low + 1e-12
    assert found.high >= exact.high - 1e-12
    assert found.high - found.low < 1.1 * (exact.high - exact.low)


def test_win_rate_with_swapped_sides_is_mirrored() -> None:
    outcomes = np.random.default_rng(5).choice([0, 0.25, 0.5, 0.75, 1], size=83, p=[0.2, 0.1, 0.2, 0.1, 0.4])
    ours, theirs = rate(outcomes), rate(1 - outcomes)
    assert theirs.value == pytest.approx(1 - ours.value, abs=1e-12)
    assert (theirs.low, theirs.high) == (
        pytest.approx(1 - ours.high, abs=1e-12),
        pytest.approx(1 - ours.low, abs=1e-12),
    )


@pytest.mark.parametrize(("size", "shares"), [(20, (0.7, 0.0, 0.3)), (60, (0.5, 0.3, 0.2)), (150, (0.8, 0.1, 0.1))])
def test_win_rate_interval_covers_the_truth_as_often_as_it_says(size: int, shares: tuple[float, float, float]) -> None:
    chance = np.random.default_rng(11)
    truth = shares[0] + shares[1] / 2
    found = [rate(chance.choice([1, 0.5, 0], size=size, p=shares), resamples=300, seed=trial) for trial in range(400)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in found])
    # 400 trials: three standard errors below 0.95; the interval may be somewhat too wide, as documented, but not
    # without bound.
    assert 0.917 <= covered <= 0.995


def test_win_rate_between_equals_rarely_has_a_lower_bound_above_one_half() -> None:
    chance = np.random.default_rng(12)
    found = [
        rate(chance.choice([1, 0.5, 0], size=50, p=(0.4, 0.2, 0.4)), resamples=300, seed=trial) for trial in range(400)
    ]
    assert np.mean([interval.low > 0.5 for interval in found]) <= 0.045


def test_win_rate_with_more_prompts_is_narrower_and_with_more_confidence_wider() -> None:
    few, many = rate([1.0, 0.0, 1.0, 1.0] * 10), rate([1.0, 0.0, 1.0, 1.0] * 100)
    assert many.high - many.low < 0.5 * (few.high - few.low)
    sure = rate([1.0, 0.0, 1.0, 1.0] * 10, confidence=0.99)
    assert sure.low < few.low < few.high < sure.high


def test_mean_interval_agrees_with_the_normal_interval_of_many_values() -> None:
    values = np.random.default_rng(8).normal(4.0, 2.0, size=1500)
    found = mean_interval(list(values), confidence=0.95, resamples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(1500)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_mean_interval_in_several_parts_makes_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small buffer must change neither the number of resamples nor the draws."""
    values = list(np.random.default_rng(8).normal(size=50))
    whole = mean_interval(values, confidence=0.95, resamples=333, seed=1)
    monkeypatch.setattr("components.statistics.intervals.CELLS", 500)
    assert mean_interval(values, confidence=0.95, resamples=333, seed=1) == whole


@pytest.mark.parametrize("function", [win_rate, mean_interval])
def test_interval_of_nothing_is_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="no prompt"):
        function([], confidence=0.95, resamples=100, seed=1)


def test_share_has_the_exact_interval_worked_by_hand() -> None:
    """Of none in n the upper bound u solves (1 - u)^n = 0.025, of all the lower bound l solves l^n = 0.025."""
    none, every = (share(count, 64, confidence=0.95) for count in (0, 64))
    assert (none.value, none.low, every.value, every.high) == (0.0, 0.0, 1.0, 1.0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 64))
    assert every.low == pytest.approx(0.025 ** (1 / 64))
    some, exact = share(45, 64, confidence=0.95), binomtest(45, 64).proportion_ci(0.95, method="exact")
    assert (some.value, some.low, some.high, some.n) == (
        45 / 64,
        pytest.approx(exact.low),
        pytest.approx(exact.high),
        64,
    )


@pytest.mark.parametrize(("worse", "sure"), [(5, False), (6, True)])
def test_share_change_is_sure_only_if_mcnemars_exact_test_rejects(worse: int, sure: bool) -> None:
    """Six prompts of 20 changed for the worse and none for the better: p = 2 / 2^6 = 0.031; with five it is 0.0625.

    The lower bound of six is 2 x 0.15 x (2 x 0.025^(1/6) - 1) = 0.0244: half of six of 20, on the scale of -1 to 1.
    """
    both_cut = [True] * 4
    own = both_cut + [True] * worse + [False] * (16 - worse)
    change = share_change(own, both_cut + [False] * 16, confidence=0.95, resamples=500, seed=3)
    assert (change.value, change.n) == (worse / 20, 20)
    assert (change.low > 0) == sure
    expected = 2 * (worse / 40) * (2 * 0.025 ** (1 / worse) - 1)
    assert change.low == pytest.approx(expected)


def test_share_change_meets_a_limit_exactly() -> None:
    """2 x rate - 1 would be 0.050000000000000044, above a limit of 0.05."""
    assert share_change([True] * 5 + [False] * 95, [False] * 100, confidence=0.95, resamples=100, seed=3).value == 0.05


def test_difference_of_independent_estimates_adds_distances_in_squares() -> None:
    one, other = Interval(value=0.5, low=0.47, high=0.54, n=100), Interval(value=0.8, low=0.76, high=0.83, n=60)
    # Below: 0.04 of the other's low, 0.04 of the one's high; above: 0.03 and 0.03.
    change = difference(one, other)
    assert change.n == 60
    assert (change.value, change.low, change.high) == pytest.approx(
        (0.3, 0.3 - 0.04 * math.sqrt(2), 0.3 + 0.03 * math.sqrt(2))
    )
    mirrored = difference(other, one)
    assert (mirrored.low, mirrored.high) == pytest.approx((-change.high, -change.low))


def test_difference_of_two_shares_is_that_of_newcombes_example() -> None:
    # Newcombe (1998), method 10: 56 of 70 against 48 of 80, with Wilson's intervals of both.
    one = Interval(value=0.8, low=0.69183, high=0.87695, n=70)
    other = Interval(value=0.6, low=0.49045, high=0.70038, n=80)
    by = difference(other, one)
    assert (by.value, by.low, by.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
