"""Active choice: which pairs are worth a costly verdict, under a budget. Pure; knows no judge.

This is uncertainty sampling (Lewis and Gale 1994), and with a jury query by committee (Seung, Opper and Sompolinsky
1992).
"""

import math
import random
import re
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from components.config import ActiveConfig


class Candidate(NamedTuple):
    """A pair that may go to a costly judge."""

    text: str
    """Prompt and answers, by which pairs are compared for similarity."""
    p: float
    """The judge's probability that chosen is really better, in [0, 1]."""
    closeness: float | None
    """Absolute difference of the answers' implicit rewards, in nats; None if it is not known."""


def choose(candidates: Sequence[Candidate], active: ActiveConfig, *, seed: int) -> list[int]:
    """Choose candidates for the costly judge: the first-ranked, or the least alike of a shortlist.

    Args:
        candidates: All pairs of a round.
        active: Budget, ranking and shortlist.
        seed: Draws the order of candidates of equal rank.

    Returns:
        Indices in ascending order: `budget` of them, or all if there are fewer.
    """
    order = _ranked(candidates, active.choose_by, seed)
    listed = order[: math.ceil(active.budget * active.shortlist)]
    if len(listed) > active.budget:
        listed = [listed[place] for place in farthest([candidates[index].text for index in listed], active.budget)]
    return sorted(listed)


def entropy(p: float) -> float:
    """Return the entropy of the votes in bits: 1 if they are split evenly, 0 if they are unanimous."""
    return -math.fsum(share * math.log2(share) for share in (p, 1 - p) if share > 0)


Key = Callable[[Candidate], float]


def _disagreement(candidate: Candidate) -> float:
    # Rounded, so that p and 1 - p give exactly the same value.
    return -round(entropy(candidate.p), 9)


def _closeness(candidate: Candidate) -> float:
    return math.inf if candidate.closeness is None else candidate.closeness


KEYS: dict[str, tuple[Key, ...]] = {
    "random": (),
    "disagreement": (_disagreement,),
    "closeness": (_closeness,),
    "both": (_disagreement, _closeness),
}
"""By ranking, the keys whose ranks are summed; the lowest sum comes first."""


def _ranked(candidates: Sequence[Candidate], choose_by: str, seed: int) -> list[int]:
    drawn = list(range(len(candidates)))
    random.Random(seed).shuffle(drawn)
    ranks = [_ranks([key(candidate) for candidate in candidates]) for key in KEYS[choose_by]]
    return sorted(drawn, key=lambda index: math.fsum(rank[index] for rank in ranks))


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, the lowest first.

    Equal values share the mean of their ranks, so they cannot outvote another key.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end < len(order) and values[order[end]] == values[order[begin]]:
            end += 1
        for place in range(begin, end):
            ranks[order[place]] = (begin + end - 1) / 2
        begin = end
    return ranks


BUCKETS = 512
"""Buckets in which words and word pairs are counted (feature hashing, Weinberger et al. 2009)."""


def farthest(texts: Sequence[str], number: int) -> list[int]:
    """Pick texts one by one, each as far as possible from those picked before (greedy k-centre, Gonzalez 1985).

    Args:
        texts: In order of preference: the first text is picked first, and of equally far ones the earlier wins.
        number: How many to pick.

    Returns:
        Indices of the texts in the order in which they were picked; all if there are fewer than `number`.
    """
    if not texts or number < 1:
        return []
    vectors = np.stack([features(text) for text in texts])
    picked = [0]
    nearest = vectors @ vectors[0]
    while len(picked) < min(number, len(texts)):
        nearest[picked] = np.inf
        picked.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, vectors @ vectors[picked[-1]])
    return picked


def features(text: str) -> np.ndarray:
    """Return hashed counts of a text's words and pairs of neighbouring words, at unit length, (BUCKETS,).

    A text without words gives zeros.
    """
    words = re.findall(r"\w+", text.lower())
    grams = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    counts = np.bincount([zlib.crc32(gram.encode()) % BUCKETS for gram in grams], minlength=BUCKETS).astype(np.float64)
    length = np.linalg.norm(counts)
    return counts / length if length else counts
