"""A judge against pairs whose better answer is known: agreement, reliability of its probabilities, and the scale that fits them. Pure.

A pair's margin is the difference of the judge's scores of the known better answer and of the other one; of a judge that compares,
the difference of their shares of the verdict, 2 q - 1.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from components.evaluation.statistics import win_rate
from components.records import Interval, Record

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Bounds of the reliability table's bins."""
CONFIDENCE, RESAMPLES = 0.95, 2000
LARGEST = 1e12
"""Bound on the inverse scale, relative to the margins."""


@dataclass(frozen=True)
class Known:
    """One pair with a known label, and what the judge said of it."""

    prompt: str
    """Names the prompt; pairs of one prompt are counted as one observation."""
    tag: str
    label: float
    """Probability that the known better answer is better, in (0.5, 1]."""
    margin: float
    """Above 0 where the judge agrees, below 0 where it does not, 0 where it sees a tie."""
    said: float | None
    """What a judge that compares concluded: the probability that the known better answer is better; None where the judge scores alone."""

    def probability(self, scale: float) -> float:
        """The judge's probability that the known better answer is better."""
        return float(expit(self.margin / scale)) if self.said is None else self.said


class Bin(Record):
    """Pairs that the judge is about equally sure of."""

    low: float
    high: float
    pairs: int
    mean_p: float
    """Mean probability that the judge gives to the answer that it prefers."""
    agreement: Interval
    """Share of the pairs in which that answer is the known better one; for a calibrated judge it is `mean_p`."""


def agreement(pairs: Sequence[Known], *, seed: int) -> Interval | None:
    """Share of the pairs whose known better answer the judge prefers, ties half; prompts count alike. None without pairs."""
    outcomes: defaultdict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        outcomes[pair.prompt].append(0.5 + 0.5 * float(np.sign(pair.margin)))
    means = [math.fsum(several) / len(several) for several in outcomes.values()]
    return win_rate(means, confidence=CONFIDENCE, resamples=RESAMPLES, seed=seed) if means else None


def agreement_by_tag(pairs: Sequence[Known], *, seed: int) -> dict[str, Interval]:
    """The same for each tag, in the order of their names."""
    found = {tag: agreement([pair for pair in pairs if pair.tag == tag], seed=seed) for tag in sorted({pair.tag for pair in pairs})}
    return {tag: interval for tag, interval in found.items() if interval is not None}


def reliability(pairs: Sequence[Known], *, scale: float, seed: int) -> list[Bin]:
    """How often the judge's preferred answer is the known better one, by how sure it is; ties are left out, and so are empty bins.

    Args:
        pairs: What the judge said.
        scale: Margin at which a judge that scores gives p = 0.73.
        seed: Of the intervals.
    """
    found = []
    decided = [(max(p, 1 - p), pair) for pair in pairs for p in [pair.probability(scale)] if pair.margin != 0]
    for low, high in itertools.pairwise(EDGES):
        inside = [(p, pair) for p, pair in decided if low <= p < high or (high == EDGES[-1] and p == high)]
        right = agreement([pair for _, pair in inside], seed=seed)
        if right is not None:
            found.append(Bin(low=low, high=high, pairs=len(inside), mean_p=math.fsum(p for p, _ in inside) / len(inside), agreement=right))
    return found


def log_loss(pairs: Sequence[Known], *, scale: float) -> float | None:
    """Mean negative log-likelihood of the labels under the judge's probabilities, in nats; ln 2 is what a coin has. None without pairs.

    A probability of 0 or 1 counts as one in a million, so that one certain mistake does not make all of it infinite.
    """
    if not pairs:
        return None
    told = np.clip([pair.probability(scale) for pair in pairs], 1e-6, 1 - 1e-6)
    labels = np.array([pair.label for pair in pairs])
    return float(-(labels * np.log(told) + (1 - labels) * np.log1p(-told)).mean())


def fit_scale(pairs: Sequence[Known]) -> float | None:
    """The `soft_label_scale` under which p = sigmoid(margin / scale) makes the labels most likely.

    Platt's scaling (1999) with no offset, since a pair has no first answer: the temperature of a Bradley-Terry model, by maximum
    likelihood. With a = 1 / scale the log-likelihood is concave, and its slope is sum m (label - sigmoid(a m)).

    Returns:
        The scale, above 0 and in units of the margin; None where none is best: the margins say nothing or the opposite of the labels,
        or they contradict no label, so that every smaller scale is better.
    """
    margins, labels = np.array([pair.margin for pair in pairs]), np.array([pair.label for pair in pairs])
    size = float(np.abs(margins).max(initial=0.0))
    if size == 0:
        return None
    unit = margins / size

    def slope(inverse: float) -> float:
        return float((unit * (labels - expit(inverse * unit))).sum())

    if slope(0.0) <= 0 or slope(LARGEST) >= 0:
        return None
    upper = 1.0
    while slope(upper) > 0:
        upper *= 2
    return size / float(brentq(slope, 0.0, upper, xtol=1e-12))
