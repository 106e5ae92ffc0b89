import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from components.statistics.sequential_test import SequentialTest, design


def after(outcomes: Sequence[float], **test: float) -> SequentialTest:
    run = SequentialTest(**{"level": 0.05, "num_prompts": len(outcomes), **test})  # type: ignore[arg-type]
    for outcome in outcomes:
        run.observe(outcome)
    return run


def chance_of_showing(rate: float, **test: float) -> float:
    """Return the exact probability that 11 coins of a rate show more than the null, over all their sequences."""
    return sum(
        rate ** sum(coins) * (1 - rate) ** (11 - sum(coins))
        for coins in itertools.product((0, 1), repeat=11)
        if after(coins, **test).shown
    )


@pytest.mark.parametrize("cost", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("level", [0.3, 0.05, 0.004])
def test_sequential_test_of_an_equal_model_shows_nothing_more_often_than_its_level(level: float, cost: float) -> None:
    assert 0 < chance_of_showing(0.5, level=level, verdict_cost=cost) <= level + 1e-12
    assert chance_of_showing(0.4, level=level, verdict_cost=cost) < 0.7 * level


@settings(max_examples=25, deadline=None)
@given(
    null=st.sampled_from([0.5, 0.55, 0.7]),
    level=st.floats(0.001, 0.4),
    cost=st.sampled_from([0.0, 0.25]),
    spread=st.floats(0.0, 1.0),
    seen=st.lists(st.floats(0, 1), max_size=9),
)
def test_sequential_test_stake_is_not_expected_to_grow_without_an_advantage(
    null: float, level: float, cost: float, spread: float, seen: list[float]
) -> None:
    """Whatever came before, and for outcomes of any law with the null's mean: that alone makes every look valid."""
    low, high = null * (1 - spread), null + (1 - null) * spread
    before = after(seen, level=level, num_prompts=10, null=null, verdict_cost=cost).stake
    won, lost = (
        after([*seen, next], level=level, num_prompts=10, null=null, verdict_cost=cost).stake for next in (high, low)
    )
    chance_of_high = (null - low) / (high - low) if high > low else 0.5
    assert chance_of_high * won + (1 - chance_of_high) * lost <= before + 1e-9


def test_sequential_test_without_a_cost_is_as_powerful_as_the_best_test_of_all_prompts() -> None:
    """The uniformly most powerful test of 11 coins at its own level: 10 wins or more (Neyman and Pearson 1933)."""
    level = float(binom.sf(9, 11, 0.5))
    power = float(binom.sf(9, 11, 0.8))
    assert chance_of_showing(0.8, level=level) == pytest.approx(power, abs=1e-9)


def test_sequential_test_ends_early_if_verdicts_cost_something() -> None:
    free, dear = (after([1.0] * 60, num_prompts=256, verdict_cost=cost) for cost in (0.0, 0.25))
    assert dear.shown
    assert not free.shown
    assert after([0.0] * 30, num_prompts=256, verdict_cost=0.25).hopeless
    assert not after([0.0] * 30, num_prompts=256).hopeless


def test_sequential_test_takes_as_many_wins_as_the_sign_test_of_its_level() -> None:
    """Seven wins of seven have a chance of 1/128, six of six one of 1/64."""
    assert after([1.0] * 7, level=1 / 128).shown
    assert not after([1.0] * 6, level=1 / 128).shown
    assert after([1.0] * 6, level=1 / 64 + 1e-9).shown


def test_sequential_test_learns_nothing_from_ties() -> None:
    tied = after([0.5] * 20, level=0.03)
    assert (tied.stake, tied.e_value, tied.shown, tied.hopeless) == (0.03, 1.0, False, False)


def test_sequential_test_plans_with_the_prompts_that_are_not_ties() -> None:
    """With ties at three of four prompts, 256 of them have about the power of 64 without."""
    rng = np.random.default_rng(3)
    shown = {0.0: 0, 0.75: 0}
    for ties, num_prompts in ((0.0, 64), (0.75, 256)):
        for _ in range(300):
            outcomes = np.where(rng.random(num_prompts) < ties, 0.5, rng.random(num_prompts) < 0.7)
            shown[ties] += after(outcomes.tolist()).shown
    assert shown[0.75] == pytest.approx(shown[0.0], abs=20)
    assert shown[0.0] > 240


def test_sequential_test_of_many_ties_rarely_ends_undecided() -> None:
    rng = np.random.default_rng(5)
    outcomes = np.where(rng.random((300, 256)) < 0.9, 0.5, rng.random((300, 256)) < 0.8)
    ends = [after(row.tolist(), level=0.014) for row in outcomes]
    assert sum(end.shown for end in ends) > 210
    assert sum(0.3 < end.stake < 1 and not end.shown for end in ends) < 20


def test_sequential_test_of_a_higher_win_rate_needs_more() -> None:
    outcomes = [1.0, 1.0, 1.0, 0.0] * 20
    assert after(outcomes).e_value > after(outcomes, null=0.6).e_value > after(outcomes, null=0.7).e_value


def test_sequential_test_never_bets_beyond_its_prompts() -> None:
    test = after([0.0, 1.0, 0.0, 1.0], num_prompts=4)
    before = test.stake
    test.observe(1.0)
    assert test.stake == before


def test_sequential_test_of_more_prompts_than_steps_keeps_its_power() -> None:
    """A rate 2.8 standard errors above one half: the best test of all prompts has a power of 0.88."""
    rng = np.random.default_rng(0)
    runs = [after((rng.random(5000) < 0.52).astype(float).tolist()) for _ in range(60)]
    assert sum(run.shown for run in runs) >= 45


@pytest.mark.parametrize("outcome", [-0.1, 1.1, float("nan")])
def test_sequential_test_refuses_what_is_no_outcome(outcome: float) -> None:
    with pytest.raises(ValueError, match=r"is outside \[0, 1\]"):
        SequentialTest(level=0.05, num_prompts=4).observe(outcome)


@pytest.mark.parametrize(("num_prompts", "level", "cost"), [(1, 0.02, 0.0), (24, 0.0146, 0.25), (256, 1e-5, 0.25)])
def test_design_bets_no_more_than_there_is(num_prompts: int, level: float, cost: float) -> None:
    bets = design(num_prompts, level, cost)
    assert bets.steps == num_prompts
    for stakes, of_row in zip(bets.stakes, bets.bets, strict=True):
        assert np.all(np.diff(stakes) > 0)
        assert np.all(of_row >= 0)
        assert np.all(of_row <= np.minimum(stakes, 1 - stakes) + 1e-12)
