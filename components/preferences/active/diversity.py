"""Texts that are unlike each other, by the words and word pairs that they share. Pure."""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

BUCKETS = 512
"""Words and word pairs are counted in so many buckets (feature hashing, Weinberger et al. 2009)."""


def farthest(texts: Sequence[str], number: int) -> list[int]:
    """Picks texts one by one, each as far as possible from those picked before (greedy k-centre, Gonzalez 1985).

    Args:
        texts: In order of preference: the first is picked first, and decides between equals.
        number: How many to pick.

    Returns:
        Indices of the texts, as picked; all where there are fewer.
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
    """Counts of a text's words and pairs of neighbouring words, hashed, at unit length, (BUCKETS,); zeros for a text without words."""
    words = re.findall(r"\w+", text.lower())
    grams = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    counts = np.bincount([zlib.crc32(gram.encode()) % BUCKETS for gram in grams], minlength=BUCKETS).astype(np.float64)
    length = np.linalg.norm(counts)
    return counts / length if length else counts
