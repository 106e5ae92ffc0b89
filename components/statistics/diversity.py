"""How much responses differ from each other. Pure functions of tokens and texts."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from components.records import Record

COLLAPSED = 0.5
"""Share of prompts whose samples are all equal above which sampling has collapsed."""


class Diversity(Record):
    """How much the responses of a round differ. A value is None if there is nothing to measure it on."""

    distinct_1: float | None
    """Distinct tokens among all tokens of the responses (distinct-1)."""
    distinct_2: float | None
    """Distinct pairs of neighbouring tokens among all such pairs (distinct-2)."""
    equal_samples: float | None
    """Chance that two samples of one prompt have the same text, mean over prompts."""
    all_equal: float | None
    """Share of prompts whose samples all have the same text."""


def measure_diversity(tokens: Iterable[Sequence[int]], texts: Iterable[Sequence[str]]) -> Diversity:
    """Return the diversity of sampled responses.

    Args:
        tokens: Token ids of each response, without the token that ends it.
        texts: For each prompt, the texts of its samples; outer white space does not count. A prompt with one sample
            says nothing of equal ones.
    """
    rows = list(tokens)
    several = [[text.strip() for text in samples] for samples in texts if len(samples) > 1]
    return Diversity(
        distinct_1=distinct(rows, 1),
        distinct_2=distinct(rows, 2),
        equal_samples=_mean([_equal_share(samples) for samples in several]),
        all_equal=_mean([float(len(set(samples)) == 1) for samples in several]),
    )


def distinct(rows: Iterable[Sequence[int]], n: int) -> float | None:
    """Return distinct-n: distinct n-grams over all responses, divided by the number of n-grams.

    Li et al. 2016 (arXiv 1510.03055), who divide by the number of tokens; for n = 1 that is the same. It falls as more
    text is measured, so compare rounds of about as many tokens.

    Args:
        rows: The token ids of each response; an n-gram lies within one response.
        n: Length of an n-gram, at least 1.

    Returns:
        A share in (0, 1]; None if no response has `n` tokens.
    """
    windows = [sliding_window_view(np.asarray(row, dtype=np.int64), n) for row in rows if len(row) >= n]
    if not windows:
        return None
    grams = np.concatenate(windows)
    base, codes = int(grams.max()) + 1, grams[:, 0]
    for place in range(1, n):
        codes = np.unique(codes * base + grams[:, place], return_inverse=True)[1]
    return len(np.unique(codes)) / len(codes)


def _equal_share(samples: Sequence[str]) -> float:
    """Return the share of pairs of samples that are equal."""
    counts = [samples.count(text) for text in set(samples)]
    return sum(count * (count - 1) for count in counts) / (len(samples) * (len(samples) - 1))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
