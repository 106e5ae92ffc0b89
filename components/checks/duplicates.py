"""Checks of repetition over the whole file: equal pairs, near-duplicate prompts, answers that other prompts have too.

Signatures propose the texts that may be alike, in an order of their contents, so that the order of the rows changes
nothing. Then the texts themselves are compared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from components.checks.columns import CHOSEN, NOTHING, PROMPT, REJECTED, Columns
from components.checks.entries import Flag
from components.checks.shingles import BANDS, Shingles, estimated_similarity, jaccard
from components.config import ChecksConfig

MIN_PROMPT_WORDS = 5
MIN_ANSWER_WORDS = 12
"""Fewest words of texts that are compared: short ones are alike by chance."""
NEIGHBOURS = 3
"""Texts of a bucket with which each is compared, so that a bucket of n texts takes n comparisons and not n * n."""
DOUBT = 0.2
"""How far the estimated similarity of near duplicates may fall short: over three standard errors."""
MOST_TEXTS = 100_000
"""Texts whose shingles are in memory at a time."""

Places = NDArray[np.int64]
"""Texts as numbers: 3 * row + PROMPT, CHOSEN or REJECTED."""
ShinglesOf = Callable[[Places], Mapping[int, Shingles]]
"""Reads the shingles of some texts again from the file."""


class Texts(NamedTuple):
    """The distinct texts that are compared."""

    places: Places
    """First place of each distinct text, in the order of the texts' keys."""
    group_of: NDArray[np.int64]
    """Index into `places` of each occurrence."""
    occurrences: Places
    """Places of all occurrences, in the order of the file."""


def duplicate_pairs(columns: Columns, config: ChecksConfig) -> Iterator[Flag]:
    """Find rows that repeat an earlier row's prompt, chosen and rejected answer, judged by the same annotator."""
    rows = np.flatnonzero(columns.keys[:, PROMPT] != NOTHING)
    annotators = columns.labels[rows, 2].astype(np.int64).view(np.uint64)
    records = np.column_stack([columns.keys[rows], annotators])
    _, first, inverse = np.unique(records, axis=0, return_index=True, return_inverse=True)
    first = first[inverse.ravel()]
    for place in np.flatnonzero(first != np.arange(len(rows))):
        yield Flag(int(rows[place]), "repeats the pair of an earlier row", like=int(rows[first[place]]))


def near_duplicate_prompts(columns: Columns, config: ChecksConfig, shingles_of: ShinglesOf) -> Iterator[Flag]:
    """Find prompts that are nearly the words of another prompt; of those that are alike, the first is not found."""
    texts = distinct_texts(columns, (PROMPT,), min_words=MIN_PROMPT_WORDS)
    cluster = _clusters(columns, texts, config.duplicate_similarity, shingles_of)[texts.group_of]
    rows = texts.occurrences // 3
    key = columns.keys[rows, PROMPT]
    first = _first_of(cluster)
    for place in np.flatnonzero(key != key[first]):
        yield Flag(int(rows[place]), "nearly the same as another prompt", like=int(rows[first[place]]))


def near_duplicate_answers(columns: Columns, config: ChecksConfig, shingles_of: ShinglesOf) -> Iterator[Flag]:
    """Find answers that an earlier row with another prompt has nearly word for word."""
    texts = distinct_texts(columns, (CHOSEN, REJECTED), min_words=MIN_ANSWER_WORDS)
    cluster = _clusters(columns, texts, config.duplicate_similarity, shingles_of)[texts.group_of]
    rows, sides = np.divmod(texts.occurrences, 3)
    prompts = columns.word_keys[rows, PROMPT]
    first = _first_of(cluster)
    for place in np.flatnonzero(prompts != prompts[first]):
        word = "chosen" if sides[place] == CHOSEN else "rejected"
        detail = f"the {word} answer is nearly the same as one of another prompt"
        yield Flag(int(rows[place]), detail, like=int(rows[first[place]]))


def distinct_texts(columns: Columns, sides: tuple[int, ...], *, min_words: int) -> Texts:
    """Return the texts of some sides with at least so many words."""
    long = columns.num_words[:, sides] >= min_words
    rows, chosen = np.nonzero(long)
    occurrences = 3 * rows.astype(np.int64) + np.array(sides, dtype=np.int64)[chosen]
    keys = columns.word_keys.ravel()[occurrences]
    _, first, group_of = np.unique(keys, return_index=True, return_inverse=True)
    return Texts(occurrences[first], group_of.astype(np.int64), occurrences)


def candidates(bands: NDArray[np.uint32], least: float) -> NDArray[np.int64]:
    """Return pairs (first < second) of texts that agree in a band, each with few others of its bucket.

    Args:
        bands: Bands of the texts (texts, BANDS), in an order that does not depend on the rows'.
        least: Smallest estimated similarity of a pair.
    """
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        for step in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(values[step:] == values[:-step])
            for part in np.array_split(same, 1 + len(same) // MOST_TEXTS):
                one, other = order[part], order[part + step]
                alike = estimated_similarity(bands[one], bands[other]) >= least
                pairs.append(np.column_stack([one[alike], other[alike]]))
    return np.unique(np.concatenate(pairs), axis=0)


def _clusters(columns: Columns, texts: Texts, similarity: float, shingles_of: ShinglesOf) -> NDArray[np.int64]:
    """Return the cluster of each distinct text: texts that are alike, directly or over others."""
    number = len(texts.places)
    bands = columns.bands.reshape(-1, BANDS)[texts.places]
    proposed = candidates(bands, similarity - DOUBT)
    alike = [
        (one, other) for part in _parts(proposed) for one, other in _alike(part, texts.places, similarity, shingles_of)
    ]
    edges = np.array(alike, dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(number, number))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _parts(proposed: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield pairs in parts of at most `MOST_TEXTS` texts."""
    size = max(1, MOST_TEXTS // 2)
    for start in range(0, len(proposed), size):
        yield proposed[start : start + size]


def _alike(
    pairs: NDArray[np.int64], places: Places, similarity: float, shingles_of: ShinglesOf
) -> Iterable[tuple[int, int]]:
    shingles = shingles_of(places[np.unique(pairs)])
    for one, other in pairs:
        first, second = shingles[int(places[one])], shingles[int(places[other])]
        if jaccard(first, second) >= similarity:
            yield int(one), int(other)


def _first_of(cluster: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the place of the first occurrence of each occurrence's cluster."""
    _, first, inverse = np.unique(cluster, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.ravel()], dtype=np.intp)
