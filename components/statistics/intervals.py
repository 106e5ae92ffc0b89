"""Means over prompts with their intervals. Pure functions of numbers."""

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

from components.records import Interval

CELLS = 2**22
"""Numbers that one part of a bootstrap holds at once."""


def win_rate(outcomes: Sequence[float], *, confidence: float, resamples: int, seed: int) -> Interval:
    """Mean outcome with an interval that a handful of prompts cannot make narrow.

    The interval is the wider, at either end, of two. The percentile bootstrap over prompts (Efron 1979) uses how large
    the outcomes are, but has no width when all are equal: three wins of three would be certainty. The exact sign test
    uses only how many of the prompts that are no ties were won, by Clopper and Pearson's (1934) bounds on that share,
    scaled to the mean. So the lower bound is above 0.5 only where the two-sided sign test at the same level rejects as
    well, which takes six wins of six at 95 %; with many prompts the two intervals agree. When every prompt is a tie
    both have no width.

    Args:
        outcomes: One a prompt, averaged over both orders: 1 win, 0.5 tie, 0 loss, 0.25 and 0.75 where the orders
            disagree.
        confidence: Level of the interval, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples; swapping the sides (1 - outcome) under one seed mirrors the interval.

    Raises:
        ValueError: There are no outcomes.
    """
    bootstrap = mean_interval(outcomes, confidence=confidence, resamples=resamples, seed=seed)
    low, high = _sign_test_bounds(np.asarray(outcomes, dtype=np.float64) - 0.5, confidence)
    return Interval(value=bootstrap.value, low=min(bootstrap.low, low), high=max(bootstrap.high, high), n=bootstrap.n)


def mean_interval(values: Sequence[float], *, confidence: float, resamples: int, seed: int) -> Interval:
    """Mean with its percentile bootstrap interval (Efron 1979): prompts are drawn again, with replacement.

    Args:
        values: One a prompt.
        confidence: Level of the interval, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples.

    Raises:
        ValueError: There are no values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("there is no prompt to take a mean over")
    chance = np.random.default_rng(seed)
    size = max(1, CELLS // numbers.size)
    parts = [
        numbers[chance.integers(numbers.size, size=(min(size, resamples - done), numbers.size))].mean(axis=1)
        for done in range(0, resamples, size)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return Interval(value=float(numbers.mean()), low=float(low), high=float(high), n=numbers.size)


def _sign_test_bounds(advantages: np.ndarray, confidence: float) -> tuple[float, float]:
    """Bounds on the mean outcome from the signs of the advantages (outcome - 0.5), given how many are decided and how large they are."""
    wins, losses = int((advantages > 0).sum()), int((advantages < 0).sum())
    tail = (1 - confidence) / 2
    least = float(betaincinv(wins, losses + 1, tail)) if wins else 0.0
    most = float(betaincinv(wins + 1, losses, 1 - tail)) if losses else 1.0
    size = float(np.abs(advantages).mean())
    return 0.5 + size * (2 * least - 1), 0.5 + size * (2 * most - 1)
