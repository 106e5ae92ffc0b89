"""Checks of judgements against each other: contradictions, circles, and how often repeated judgements agree."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from components.checks.columns import CHOSEN, PROMPT, REJECTED, Columns
from components.checks.entries import Flag
from components.checks.outcome import Bar, Measure
from components.config import ChecksConfig

MIN_REPEATED = 20
"""Fewest repeated judgements that say anything about consistency."""
MOST_BARS = 12
ANNOTATOR = 2


def contradictions(columns: Columns, config: ChecksConfig) -> Iterator[Flag]:
    """Find pairs on a circle of preferences: A before B and B before A, or A before B before C before A.

    Preferences of a prompt are arrows between its answers. Two answers that reach each other are in one strongly
    connected component, and so every arrow within a component is part of a circle.
    """
    rows = np.flatnonzero(columns.are_pairs & (columns.keys[:, CHOSEN] != columns.keys[:, REJECTED]))
    if not len(rows):
        return
    chosen, rejected, number = _nodes(columns, rows)
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (chosen, rejected)), shape=(number, number))
    component = connected_components(graph, directed=True, connection="strong")[1]
    inside = component[chosen] == component[rejected]
    ends = zip(chosen[inside].tolist(), rejected[inside].tolist(), strict=True)
    arrows = dict(zip(ends, rows[inside].tolist(), strict=True))
    for place in np.flatnonzero(inside):
        opposite = arrows.get((int(rejected[place]), int(chosen[place])))
        detail = "is part of a circle of preferences" if opposite is None else "contradicts another pair"
        yield Flag(int(rows[place]), detail, like=opposite)


def consistency(columns: Columns, config: ChecksConfig) -> Measure:
    """Measure how often repeated judgements of the same two answers contradict their majority, by annotator too."""
    rows = np.flatnonzero(columns.are_pairs & (columns.keys[:, CHOSEN] != columns.keys[:, REJECTED]))
    low = columns.keys[rows, CHOSEN] < columns.keys[rows, REJECTED]
    ends = np.sort(columns.keys[rows][:, [CHOSEN, REJECTED]], axis=1)
    question = np.column_stack([columns.keys[rows, PROMPT], ends])
    _, group = np.unique(question, axis=0, return_inverse=True)
    group = group.ravel()
    votes, total = np.bincount(group, weights=low), np.bincount(group)
    repeated = total[group] > 1
    if repeated.sum() < MIN_REPEATED:
        return Measure(None, f"{int(repeated.sum())} repeated judgements, too few to compare")
    minority = np.where(low, votes[group] * 2 < total[group], votes[group] * 2 > total[group])
    # Of a tie, one half contradicts the other.
    weights = np.where(votes[group] * 2 == total[group], 0.5, minority)
    share = float(weights[repeated].mean())
    summary = f"{share:.1%} of {int(repeated.sum())} repeated judgements contradict their majority"
    return Measure(share, summary, _by_annotator(columns, rows[repeated], weights[repeated]))


def _by_annotator(columns: Columns, rows: NDArray[np.intp], weights: NDArray[np.float64]) -> tuple[Bar, ...]:
    codes = columns.labels[rows, ANNOTATOR]
    shares = [
        (float(weights[codes == code].mean()), int((codes == code).sum()), columns.names[code])
        for code in np.unique(codes[codes >= 0])
    ]
    worst = sorted(shares, reverse=True)[:MOST_BARS]
    return tuple(Bar(name, share, f"{share:.1%} of {count}") for share, count, name in worst)


def _nodes(columns: Columns, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Return the numbers of the chosen and the rejected answers, each within its prompt, and how many there are."""
    ends = [np.column_stack([columns.keys[rows, PROMPT], columns.keys[rows, side]]) for side in (CHOSEN, REJECTED)]
    distinct, numbers = np.unique(np.concatenate(ends), axis=0, return_inverse=True)
    numbers = numbers.ravel()
    return numbers[: len(rows)], numbers[len(rows) :], len(distinct)
