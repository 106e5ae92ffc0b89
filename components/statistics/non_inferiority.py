"""Bound by how much a model solves less than another one on the same items. Pure functions of numbers.

The bound holds at any number of items. It is the unconditional exact one for paired outcomes: the difference of wins
and losses among `n` items has a known law, given the share of items on which the two models differ, and that share is
bounded first (Berger and Boos 1994, JASA 89, P values maximized over a confidence set for the nuisance parameter).
Score and Wald intervals (Tango 1998, Newcombe 1998) are narrower, but hold only on average, and are shortest for the
few items with few differences that a guard sees.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv

NUISANCE_SHARE = 0.1
"""Share of the error that is spent on the bound of how many items differ."""
GRID = 25
"""Shares of differing items, up to their bound, at which the tail is computed; the largest tail counts."""
STEPS = 40
"""Halvings of the bracket around the bound, which is then known to 2e-12."""


class Loss(NamedTuple):
    """How much less the challenger solves than the champion, as a share of the items; negative is a gain."""

    value: float
    """Mean of the champion's outcomes minus the challenger's."""
    upper: float
    """Upper end of the one-sided interval."""
    num_items: int
    lost: int
    """Items that only the champion solves."""
    won: int
    """Items that only the challenger solves."""


def paired_loss(challenger: Sequence[float], champion: Sequence[float], *, confidence: float, seed: int = 0) -> Loss:
    """Return the challenger's loss against the champion with a bound that the true loss exceeds rarely.

    Whatever the number of items and the true shares, the bound is below the true loss in at most 1 - `confidence` of
    the suites that could have been drawn. A margin needs a suite that is large enough: if no item differs, the bound is
    about 4 / n at 95 %, so a margin of 0.1 needs at least 39 items, one of 0.05 at least 80 (`items_needed`). If two
    models that are equally good differ on a tenth of the items, the bound is within 0.1 in 9 of 10 suites of 150 items,
    within 0.05 in 9 of 10 suites of 450.

    Args:
        challenger: One outcome per item in [0, 1]: 1 solved, 0 not.
        champion: The champion's outcomes on the same items, in the same order.
        confidence: One-sided level of the bound, in (0, 1).
        seed: Seed by which outcomes between 0 and 1 become 0 or 1. Both models' outcomes are compared with one uniform
            number per item, which keeps the expected loss and lets equal outcomes stay equal.

    Raises:
        ValueError: There are no items, the two sequences are not equally long, or an outcome is not in [0, 1].
    """
    own, other = (np.asarray(values, dtype=np.float64) for values in (challenger, champion))
    if not own.size or own.shape != other.shape:
        raise ValueError(f"{own.size} and {other.size} outcomes: give one of each model per item")
    if not (np.isfinite(own + other).all() and 0 <= min(own.min(), other.min()) <= max(own.max(), other.max()) <= 1):
        raise ValueError("an outcome is not in [0, 1]: scale the metric of the task to that range")
    thresholds = 1 - np.random.default_rng(seed).random(own.size)  # in (0, 1], so that 0 is never solved and 1 always
    solved, by_champion = own >= thresholds, other >= thresholds
    lost, won = int((by_champion & ~solved).sum()), int((solved & ~by_champion).sum())
    upper = _upper_end(lost, won, own.size, 1 - confidence)
    return Loss(value=float((other - own).mean()), upper=upper, num_items=own.size, lost=lost, won=won)


def items_needed(margin: float, *, confidence: float) -> int:
    """Return the number of items from which on the bound is within a margin if the two models differ on none.

    Args:
        margin: Largest loss that is accepted, in (0, 1).
        confidence: One-sided level of the bound.
    """
    fewest, most = 0, 1
    while _upper_end(0, 0, most, 1 - confidence) > margin:
        fewest, most = most, 2 * most
    while most - fewest > 1:
        middle = (fewest + most) // 2
        within = _upper_end(0, 0, middle, 1 - confidence) <= margin
        fewest, most = (fewest, middle) if within else (middle, most)
    return most


def _upper_end(lost: int, won: int, num_items: int, error: float) -> float:
    """Return the largest loss at which as few net losses as were seen have the chance that is left of the error."""
    spent = NUISANCE_SHARE * error
    differing = lost + won
    most = 1.0 if differing == num_items else float(betaincinv(differing + 1, num_items - differing, 1 - spent))
    low, high = (lost - won) / num_items, most
    if _chance(high, most, lost - won, num_items) > error - spent:
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        possible = _chance(middle, most, lost - won, num_items) > error - spent
        low, high = (middle, high) if possible else (low, middle)
    return high


def _chance(loss: float, most: float, net: int, num_items: int) -> float:
    """Return the chance of at most `net` net losses at a true loss, at the worst share of differing items up to `most`.

    The law of the net losses is a power of a polynomial, computed by its Fourier transform.
    """
    shares = np.linspace(abs(loss), most, GRID)[:, None]
    size = 2 * num_items + 1
    angles = 2 * np.pi * np.arange(size) / size
    step = 1 - shares + shares * np.cos(angles) - 1j * loss * np.sin(angles)
    law = np.fft.ifft(step**num_items).real
    # Place j holds the chance of j net losses, and place size - j that of -j.
    return float(np.roll(law, num_items, axis=1)[:, : num_items + net + 1].sum(axis=1).max())
