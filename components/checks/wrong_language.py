"""The check of languages: answers in one that is neither the data's nor their prompt's."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from components.checks.columns import Columns
from components.checks.entries import Flag
from components.config import ChecksConfig


def wrong_language(columns: Columns, config: ChecksConfig) -> Iterator[Flag]:
    """Find answers in a language that is neither one of the data's nor that of their prompt."""
    expected = {columns.names.index(name) for name in expected_languages(columns, config) if name in columns.names}
    sure = columns.languages >= 0
    prompt = columns.languages[:, 0]
    for side, word in ((1, "chosen"), (2, "rejected")):
        answer = columns.languages[:, side]
        odd = sure[:, side] & ~np.isin(answer, list(expected)) & (answer != prompt)
        for row in np.flatnonzero(odd):
            yield Flag(int(row), f"the {word} answer seems to be in {columns.names[answer[row]]}")


def expected_languages(columns: Columns, config: ChecksConfig) -> tuple[str, ...]:
    """Return the languages that answers may have: those of the configuration, else those of enough of the answers."""
    if config.languages:
        return config.languages
    counts = language_counts(columns)
    total = sum(counts.values())
    return tuple(name for name, count in counts.most_common() if count >= config.min_language_share * total)


def language_counts(columns: Columns) -> "Counter[str]":
    """Return the number of answers by recognised language."""
    codes = columns.languages[:, 1:].ravel()
    values, counts = np.unique(codes[codes >= 0], return_counts=True)
    return Counter({columns.names[value]: int(count) for value, count in zip(values, counts, strict=True)})
