"""Checks of what the pairs are about: tags, sources, and how the pairs spread over prompts."""

import numpy as np

from components.checks.columns import NOTHING, PROMPT, Columns
from components.checks.outcome import Bar, Measure
from components.config import ChecksConfig

TAG, SOURCE = 0, 1
MOST_BARS = 12
MIN_PROMPTS = 20
"""Fewest distinct prompts among which one may be too frequent."""


def tag_balance(columns: Columns, config: ChecksConfig) -> Measure:
    """Measure the share of the most frequent tag."""
    return _balance(columns, TAG, "tag")


def source_balance(columns: Columns, config: ChecksConfig) -> Measure:
    """Measure the share of the most frequent source."""
    return _balance(columns, SOURCE, "source")


def _balance(columns: Columns, label: int, noun: str) -> Measure:
    codes = columns.labels[:, label]
    values, counts = np.unique(codes[codes >= 0], return_counts=True)
    if len(values) < 2:
        return Measure(None, f"the rows have {'one ' + noun if len(values) else 'no ' + noun + 's'}")
    order = np.argsort(-counts, kind="stable")
    total = int(counts.sum())
    named = [(columns.names[values[place]], int(counts[place])) for place in order]
    bars = tuple(Bar(name, count / total, f"{count / total:.1%} ({count:,})") for name, count in named[:MOST_BARS])
    summary = f"{named[0][1] / total:.1%} of the rows have the {noun} that is most frequent of {len(named)}"
    return Measure(named[0][1] / total, summary, bars)


def prompt_coverage(columns: Columns, config: ChecksConfig) -> Measure:
    """Measure the share of the pairs that the most frequent prompt has."""
    keys = columns.keys[:, PROMPT]
    counts = np.sort(np.unique(keys[keys != NOTHING], return_counts=True)[1])[::-1]
    total = int(counts.sum())
    summary = f"{total:,} rows have {len(counts):,} different prompts"
    if not total or len(counts) < MIN_PROMPTS:
        return Measure(None, f"{summary}, too few to say")
    bars = tuple(
        Bar(label, share, f"{share:.1%} of the rows")
        for label, number in (("most frequent 1 % of prompts", 100), ("most frequent 10 %", 10), ("half", 2))
        for share in [float(counts[: max(1, len(counts) // number)].sum()) / total]
    )
    return Measure(float(counts[0]) / total, f"{summary}; the most frequent has {counts[0] / total:.2%}", bars)
