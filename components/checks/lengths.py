"""The check of length bias: what a judge that only looks at lengths would score."""

import numpy as np

from components.checks.columns import CHOSEN, REJECTED, Columns
from components.checks.outcome import Bar, Measure
from components.config import ChecksConfig

MIN_PAIRS = 30
"""Fewest pairs whose lengths say anything."""
EDGES = (0.0, 0.1, 0.25, 0.5, 1.0, np.inf)
"""Edges of the bins of how much longer the longer answer is, as a share of the shorter one."""
LABELS = ("up to 10 % longer", "10 to 25 %", "25 to 50 %", "50 to 100 %", "over twice as long")


def length_bias(columns: Columns, config: ChecksConfig) -> Measure:
    """Measure how often a judge of length alone is right: it prefers the longer, or the shorter, whichever is better.

    Lengths are in characters; a pair of equal lengths counts one half.
    """
    pairs = columns.num_characters[columns.are_pairs].astype(np.float64)
    if len(pairs) < MIN_PAIRS:
        return Measure(None, f"{len(pairs)} pairs, too few to say")
    chosen, rejected = pairs[:, CHOSEN], pairs[:, REJECTED]
    longer = np.where(chosen == rejected, 0.5, chosen > rejected)
    share = float(longer.mean())
    word = "longer" if share >= 0.5 else "shorter"
    score = max(share, 1 - share)
    summary = (
        f"a judge that always prefers the {word} answer is right in {score:.1%}; chosen answers have "
        f"{np.mean(chosen):,.0f} characters on average, rejected ones {np.mean(rejected):,.0f}"
    )
    return Measure(score, summary, _bars(chosen, rejected, longer))


def _bars(chosen: np.ndarray, rejected: np.ndarray, longer: np.ndarray) -> tuple[Bar, ...]:
    """Return how often the longer answer is chosen, by how much longer it is."""
    ratio = np.maximum(chosen, rejected) / np.maximum(np.minimum(chosen, rejected), 1) - 1
    bars = []
    for low, high, label in zip(EDGES, EDGES[1:], LABELS, strict=False):
        inside = (ratio > low) & (ratio <= high)
        if inside.any():
            share = float(longer[inside].mean())
            bars.append(Bar(label, share, f"longer one chosen in {share:.0%} of {int(inside.sum()):,}"))
    return tuple(bars)
