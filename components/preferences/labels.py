"""The label of a pair: the probability that its chosen answer is really better. Pure."""

import math
from collections.abc import Callable

from components.config import PreferencesConfig

TIED = 0.5
"""Label of a pair of which neither answer is better."""


def label(margin: float, verdict_p: float | None, preferences: PreferencesConfig) -> float:
    """Return the configured label of a pair whose answers were judged.

    Args:
        margin: Difference of the scores, above 0.
        verdict_p: The judge's probability that chosen is better, from its comparison of exactly these two answers; None
            if it did not compare them.
        preferences: `soft_labels: verdict` takes `verdict_p`. The builder `nash`, whose margin is a difference of win
            rates, takes the mean of the chosen answer's win rate and the rejected one's loss rate, (1 + margin) / 2.
            SPPO (arXiv 2405.00675) regresses each answer on its own win rate; here one p stands for both.

    Returns:
        p in (0.5, 1].
    """
    if preferences.pairs == "nash":
        return (1 + margin) / 2
    if preferences.soft_labels == "verdict":
        assert verdict_p is not None
        return verdict_p
    return soft_label(margin, preferences)


def soft_label(margin: float, preferences: PreferencesConfig) -> float:
    """Return the probability p that chosen is really preferred, from the margin of the scores alone.

    `bradley_terry`: p = sigmoid(margin / scale) (Bradley and Terry 1952); others: 1.
    """
    return OF_MARGIN.get(preferences.soft_labels, _certain)(margin / preferences.soft_label_scale)


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow at any value."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _certain(margin: float) -> float:
    return 1.0


OF_MARGIN: dict[str, Callable[[float], float]] = {"none": _certain, "bradley_terry": sigmoid}
