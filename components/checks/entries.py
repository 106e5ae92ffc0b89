"""The pairs of a batch as checks read them, and the flags that checks put on rows. Knows no check."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.checks.shingles import BANDS, Hashes, signatures, word_hashes
from components.data.forms.pair_rows import COLUMNS, read_pair
from components.data.messages import Messages
from components.data.raw_batch import SPLIT_EARLIER, NoPair, RawBatch, Unreadable
from components.data.rows import Row
from components.data.seed_pair import SeedPair

SOURCES = ("source", "dataset", "origin")
ANNOTATORS = ("annotator", "annotator_id", "worker_id", "judge")
FINISHED = ("finish_reason", "chosen_finish_reason")
"""Columns that say where a row comes from, who judged it, and how its chosen answer ended; the first that is there."""
LABEL_COLUMNS = (*SOURCES, *ANNOTATORS, *FINISHED)
CHECKED_COLUMNS = (*COLUMNS, *LABEL_COLUMNS)
"""Columns that the checks read."""


class Flag(NamedTuple):
    """A row that a check finds, with the text and the part of it that show why."""

    row: int
    """Index of the row within the source, from 0."""
    detail: str
    """What is wrong, in one of few wordings and without a word of the data."""
    text: str = ""
    start: int = 0
    end: int = 0
    like: int | None = None
    """Index of the row that it repeats or contradicts, if there is one."""


@dataclass(frozen=True)
class Entry:
    """A pair, or a single response, of one row."""

    row: int
    pair: SeedPair
    values: Mapping[str, Any]
    """The row's cells."""

    @property
    def messages(self) -> Messages:
        """The prompt."""
        return self.pair.messages

    @cached_property
    def prompt(self) -> str:
        """The text of the prompt, all its messages."""
        messages = self.pair.messages
        return str(messages[0]["content"]) if len(messages) == 1 else "\n\n".join(each["content"] for each in messages)

    @property
    def answers(self) -> Iterator[str]:
        """The texts of the answers that the row has."""
        return (text for text in (self.pair.chosen, self.pair.rejected) if text is not None)

    @property
    def texts(self) -> Iterator[str]:
        """The texts of the prompt and the answers."""
        yield self.prompt
        yield from self.answers

    def label(self, names: tuple[str, ...]) -> str | None:
        """Return the value of the first of some columns that is there, as text."""
        return next((str(self.values[name]) for name in names if self.values.get(name) is not None), None)


@dataclass(frozen=True)
class Entries:
    """A batch: its pairs, and the rows that give none."""

    first: int
    num_rows: int
    pairs: list[Entry]
    malformed: list[Flag]
    different_prompts: list[Flag]
    without_pair: list[tuple[int, str]]
    """Rows that say nothing of which answer is better, and why."""

    @cached_property
    def words(self) -> list[Hashes]:
        """The hashes of the words of each pair's prompt, chosen and rejected answer, one after the other."""
        return [
            word_hashes(text)
            for entry in self.pairs
            for text in (entry.prompt, entry.pair.chosen or "", entry.pair.rejected or "")
        ]

    @cached_property
    def bands(self) -> NDArray[np.uint32]:
        """The MinHash bands (pairs, 3, BANDS) of the same texts."""
        return signatures(self.words).reshape(-1, 3, BANDS)


def read_entries(batch: RawBatch) -> Entries:
    """Decode a batch and read its rows as pairs; a row that is malformed does not stop the others."""
    pairs: list[Entry] = []
    malformed: list[Flag] = []
    different: list[Flag] = []
    without_pair: list[tuple[int, str]] = []
    for index, row in enumerate(batch.rows(), batch.first):
        if isinstance(row, Unreadable):
            malformed.append(_malformed(index, row.detail, f"{row.place} {row.reason}"))
            continue
        if isinstance(row, NoPair):
            if row.reason == SPLIT_EARLIER:
                different.append(_different(index, row.place))
            else:
                without_pair.append((index, row.reason))
            continue
        pair = _pair(row, index, malformed)
        if isinstance(pair, SeedPair):
            pairs.append(Entry(index, pair, row.values))
        elif pair is None:
            different.append(_different(index, row.place))
    return Entries(batch.first, len(batch), pairs, malformed, different, without_pair)


def _pair(row: Row, index: int, malformed: list[Flag]) -> SeedPair | bool | None:
    """Return the pair, None if there is no common prompt, and false if the row is malformed."""
    try:
        pair = read_pair(row, [*row.values])
        if pair is not None and not pair.messages:
            malformed.append(Flag(index, "the prompt is empty"))
            return False
        return pair
    except ValueError as error:
        malformed.append(_malformed(index, "cannot be read as a pair", str(error)))
        return False


def _different(index: int, place: str) -> Flag:
    return Flag(index, "the two conversations differ before the last answer", place)


def _malformed(index: int, detail: str, error: str) -> Flag:
    return Flag(index, detail, error, 0, len(error))
