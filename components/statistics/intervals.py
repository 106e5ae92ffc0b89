"""Compute means over prompts with their intervals. Pure functions of numbers."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, stdtrit

from components.records import Interval

CELLS = 2**22
"""Largest number of drawn values that a bootstrap holds in memory at once."""


def win_rate(outcomes: Sequence[float], *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the mean outcome with an interval that a handful of prompts cannot make narrow.

    At either end the interval is the wider of two. The percentile bootstrap over prompts (Efron 1979) uses the size of
    the outcomes, but its width is 0 if all outcomes are equal: three wins of three would be certainty. The exact sign
    test uses only the share of wins among the prompts that are not ties, with Clopper and Pearson's (1934) bounds,
    scaled to the mean. So the lower bound is above 0.5 only if the two-sided sign test at the same level rejects as
    well, which takes six wins of six at 95 %. With many prompts the two intervals agree. If every prompt is a tie, both
    have a width of 0.

    Args:
        outcomes: One per prompt, averaged over both orders: 1 win, 0.5 tie, 0 loss; 0.25 and 0.75 if one order is a
            tie.
        confidence: Level of the interval, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples; swapping the sides (1 - outcome) under one seed mirrors the interval.

    Raises:
        ValueError: `outcomes` is empty.
    """
    bootstrap = mean_interval(outcomes, confidence=confidence, resamples=resamples, seed=seed)
    low, high = _sign_test_bounds(np.asarray(outcomes, dtype=np.float64) - 0.5, confidence)
    return Interval(value=bootstrap.value, low=min(bootstrap.low, low), high=max(bootstrap.high, high), n=bootstrap.n)


def mean_interval(values: Sequence[float], *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the mean with its percentile bootstrap interval (Efron 1979): prompts are resampled with replacement.

    Args:
        values: One per prompt.
        confidence: Level of the interval, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples.

    Raises:
        ValueError: `values` is empty.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("there are no prompts to average over: give at least one")
    generator = np.random.default_rng(seed)
    size = max(1, CELLS // numbers.size)
    parts = [
        numbers[generator.integers(numbers.size, size=(min(size, resamples - done), numbers.size))].mean(axis=1)
        for done in range(0, resamples, size)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return Interval(value=float(numbers.mean()), low=float(low), high=float(high), n=numbers.size)


def mean_of_seeds(values: Sequence[float], *, confidence: float) -> Interval:
    """Return the mean with Student's interval: for the few results of seeds, too few for a bootstrap.

    Args:
        values: One per seed, at least two.
        confidence: Level of the interval, in (0, 1).
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean, error = float(numbers.mean()), float(numbers.std(ddof=1)) / math.sqrt(numbers.size)
    reach = float(stdtrit(numbers.size - 1, (1 + confidence) / 2)) * error
    return Interval(value=mean, low=mean - reach, high=mean + reach, n=numbers.size)


def share(count: int, total: int, *, confidence: float) -> Interval:
    """Return a share with Clopper and Pearson's (1934) exact interval, which a few cases cannot make narrow.

    Args:
        count: Cases that have the property.
        total: All cases, at least one.
        confidence: Level of the interval, in (0, 1).
    """
    low, high = _exact_bounds(count, total - count, confidence)
    return Interval(value=count / total, low=low, high=high, n=total)


def difference(own: Interval, other: Interval) -> Interval:
    """Return by how much one of two independent estimates exceeds the other: variance estimates recovery (MOVER).

    Zou and Donner (2008); for shares Newcombe's (1998) method 10: the distances from each value to its own bounds add
    up in squares, so intervals need not be symmetric. If the estimates are positively correlated, as on common prompts,
    the interval is too wide, never too narrow. Its n is that of the smaller one.
    """
    value = own.value - other.value
    below = math.hypot(own.value - own.low, other.high - other.value)
    above = math.hypot(own.high - own.value, other.value - other.low)
    return Interval(value=value, low=value - below, high=value + above, n=min(own.n, other.n))


def share_difference(own: tuple[int, int], other: tuple[int, int], *, confidence: float) -> Interval:
    """Return by how much a share exceeds that of other, independent cases.

    It is `difference` of Clopper and Pearson's exact intervals, so rather too wide than too narrow. Its n is that of
    both.

    Args:
        own: Cases that have the property, and all cases, at least one.
        other: The same of the others.
        confidence: Level of the interval, in (0, 1).
    """
    mine, theirs = (share(*cases, confidence=confidence) for cases in (own, other))
    by = difference(mine, theirs)
    return Interval(value=by.value, low=max(-1.0, by.low), high=min(1.0, by.high), n=mine.n + theirs.n)


def share_change(
    own: Sequence[float], other: Sequence[float], *, confidence: float, resamples: int, seed: int
) -> Interval:
    """Return by how much the share of a property in `own` exceeds that in `other`, which is paired with it by prompt.

    With one response per prompt, a prompt counts 1 if only its own response has the property, -1 if only the other one
    has, and 0 otherwise. That is `win_rate` on another scale, so the interval lies above 0 only if McNemar's exact test
    rejects at its level too.

    Args:
        own: Share of each prompt's responses that have the property, in [0, 1].
        other: Share of the other model's responses, in the same order.
        confidence: Level of the interval, in (0, 1).
        resamples: Resamples of the bootstrap.
        seed: Seed of the resamples.
    """
    changes = [mine - theirs for mine, theirs in zip(own, other, strict=True)]
    rate = win_rate([0.5 + change / 2 for change in changes], confidence=confidence, resamples=resamples, seed=seed)
    value = sum(changes) / len(changes)  # exact where it meets a limit such as 0.05, unlike 2 x rate - 1
    return Interval(value=value, low=2 * rate.low - 1, high=2 * rate.high - 1, n=rate.n)


def _sign_test_bounds(advantages: np.ndarray, confidence: float) -> tuple[float, float]:
    """Bound the mean outcome by the signs of the advantages (outcome - 0.5), scaled by their mean size."""
    wins, losses = int((advantages > 0).sum()), int((advantages < 0).sum())
    low, high = _exact_bounds(wins, losses, confidence)
    size = float(np.abs(advantages).mean())
    return 0.5 + size * (2 * low - 1), 0.5 + size * (2 * high - 1)


def _exact_bounds(hits: int, misses: int, confidence: float) -> tuple[float, float]:
    """Return Clopper and Pearson's (1934) bounds of the share of hits."""
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, misses + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if misses else 1.0
    return low, high
