"""Measure how often a reward model is right and how well it is calibrated. Pure functions of numbers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, expit

from components.artifacts import derive_seed
from components.records import Interval, Record
from components.statistics.intervals import win_rate

BINS = 10
"""Bins of equal width between a confidence of 0.5 and 1."""
TAIL = 0.025
"""Probability beyond either end of a bin's interval."""


class Prediction(NamedTuple):
    """A reward model's prediction for one held-out pair."""

    prompt: str
    """Identity of the pair's prompt; pairs of one prompt are not independent."""
    margin: float
    """Reward of chosen minus reward of rejected."""
    p: float
    """Probability that chosen is really preferred."""
    tag: str


class Bin(Record):
    """Pairs for which the model has about the same confidence."""

    low: float
    high: float
    num_pairs: int
    predicted: float
    """Mean probability that the model gives to the answer it favours, in [0.5, 1]."""
    observed: float
    """Share of the pairs in which that answer is the preferred one."""
    observed_low: float
    """Lower end of its 95 % interval (Clopper and Pearson 1934)."""
    observed_high: float
    """Upper end of the same interval."""


class Quality(Record):
    """Quality of a reward model on held-out pairs."""

    num_pairs: int
    accuracy: Interval
    """Share of the pairs whose preferred answer has the higher reward, ties half: a mean over prompts."""
    median_margin: float | None
    """Median of the distance between a pair's two rewards. A judge's pairs below `preferences.min_margin` are
    dropped. None if it is infinite, as the margins of a judge that is certain are."""
    calibration_error: float
    """Expected calibration error: mean of |predicted - observed| over the bins, weighted by their pairs; in [0, 1]."""
    brier: float
    """Mean squared error of the predicted probability, in expectation over the pair's label; a coin has 0.25."""
    reliability: tuple[Bin, ...]
    """The bins that are not empty, from low to high confidence."""


def quality(predictions: Sequence[Prediction], *, confidence: float, resamples: int, seed: int) -> Quality:
    """Measure a reward model.

    Args:
        predictions: One per pair; at least one.
        confidence: Level of the accuracy's interval, in (0, 1).
        resamples: Resamples of its bootstrap.
        seed: Seed of the resamples.
    """
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for prediction in predictions:
        # At p < 1/2 the rejected answer is the preferred one, and at 1/2 neither is.
        agreement = np.sign(prediction.margin) * np.sign(prediction.p - 0.5)
        by_prompt[prediction.prompt].append(float(agreement + 1) / 2)
    means = [float(np.mean(right)) for right in by_prompt.values()]
    median = float(np.median(np.abs([prediction.margin for prediction in predictions])))
    bins = reliability([prediction.margin for prediction in predictions], [prediction.p for prediction in predictions])
    return Quality(
        num_pairs=len(predictions),
        accuracy=win_rate(means, confidence=confidence, resamples=resamples, seed=derive_seed(seed, "accuracy")),
        median_margin=median if np.isfinite(median) else None,
        calibration_error=sum(each.num_pairs * abs(each.predicted - each.observed) for each in bins) / len(predictions),
        brier=brier([prediction.margin for prediction in predictions], [prediction.p for prediction in predictions]),
        reliability=bins,
    )


def reliability(margins: Sequence[float], p: Sequence[float]) -> tuple[Bin, ...]:
    """Compare predicted and observed probability per bin of confidence (Guo et al. 2017, arXiv 1706.04599).

    A pair counts by the answer that the model favours. Predicted is sigmoid(|margin|). Observed is the probability that
    this answer is the preferred one: p or 1 - p, and 0.5 if the model favours neither. Swapping chosen and rejected
    changes nothing.

    Args:
        margins: Reward of chosen minus reward of rejected, one per pair.
        p: Probability that chosen is really preferred.
    """
    difference, label = np.asarray(margins, dtype=np.float64), np.asarray(p, dtype=np.float64)
    predicted = expit(np.abs(difference))
    observed = np.where(difference > 0, label, np.where(difference < 0, 1 - label, 0.5))
    edges = np.linspace(0.5, 1.0, BINS + 1)
    bin_numbers = np.clip(np.digitize(predicted, edges) - 1, 0, BINS - 1)
    masks = [(number, bin_numbers == number) for number in range(BINS)]
    return tuple(
        _bin(edges[number], edges[number + 1], predicted[mask], observed[mask]) for number, mask in masks if mask.any()
    )


def _bin(low: float, high: float, predicted: np.ndarray, observed: np.ndarray) -> Bin:
    count, right = len(observed), float(observed.sum())
    return Bin(
        low=float(low),
        high=float(high),
        num_pairs=count,
        predicted=float(predicted.mean()),
        observed=right / count,
        observed_low=float(betaincinv(right, count - right + 1, TAIL)) if right else 0.0,
        observed_high=float(betaincinv(right + 1, count - right, 1 - TAIL)) if right < count else 1.0,
    )


def brier(margins: Sequence[float], p: Sequence[float]) -> float:
    """Return the Brier score (1950) of s = sigmoid(margin) as the probability that chosen is preferred.

    It is the mean of p (1 - s)^2 + (1 - p) s^2.
    """
    predicted, label = expit(np.asarray(margins, dtype=np.float64)), np.asarray(p, dtype=np.float64)
    return float(np.mean(label * (1 - predicted) ** 2 + (1 - label) * predicted**2))
