"""A source of any published form as rows of pairs, each in the place of the row that it comes from.

A row of a form that is not our own becomes one of ours, so that who reads pairs row by row needs to know no other form.
Most forms have a pair in each row. HelpSteer2 has one in two rows, and it stands in the place of the first one.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from components.data.forms.form import Form
from components.data.forms.helpsteer import HELPSTEER2
from components.data.forms.pair_rows import read_pair_rows
from components.data.forms.registry import FORMS, form_of, typed
from components.data.forms.trl import RATCHET
from components.data.forms.ultrafeedback import ULTRAFEEDBACK, is_rated_by_aspect, without_overall_score
from components.data.raw_batch import JOINED, SPLIT_EARLIER, NoPair, RawBatch, Read, Unreadable
from components.data.row_batches import RowSource
from components.data.rows import Row, Rows

SEEN_ROWS = 20
"""Rows by which the form of a source is recognised."""


class PairSource:
    """A source of rows in any form, read as pairs in bounded memory and as often as needed.

    Of a prompt with several rated answers, the best is paired with the worst.

    Args:
        rows: The source.
        carried: Columns of the rows that stay beside the pair.

    Raises:
        ValueError: The source cannot be read.
    """

    def __init__(self, rows: RowSource, *, carried: Collection[str]) -> None:
        self.rows, self.carried = rows, frozenset(carried)
        self.source = rows.source
        self.total_bytes = rows.total_bytes
        self.form = self._recognised()
        # A file rates by aspects or as a whole, and the first decides what a completion without such a rating is.
        self.leaves_overall_score = self.form is ULTRAFEEDBACK and self._is_rated_by_aspects()

    @property
    def total_rows(self) -> int | None:
        """Number of rows, if it is known."""
        return self.rows.total_rows

    @property
    def is_plain(self) -> bool:
        """Whether the rows are pairs as they are."""
        return (self.form is None or self.form.read is read_pair_rows) and not self.rows.is_text

    def batches(self, *, size: int, columns: Collection[str] | None) -> Iterator[RawBatch]:
        """Yield the rows in order; `columns` are those of pairs."""
        if self.is_plain:
            yield from self.rows.batches(size=size, columns=columns)
            return
        batches = self.rows.batches(size=size, columns=None)
        for batch in _whole_pairs(batches) if self.form is HELPSTEER2 else batches:
            name = None if self.form is None or self.form.read is read_pair_rows else self.form.name
            yield PairBatch(
                **vars(batch),
                form=name,
                is_text=self.rows.is_text,
                leaves_overall_score=self.leaves_overall_score,
                carried=self.carried,
            )

    def take(self, rows: Collection[int], *, size: int) -> Iterator[tuple[int, Read]]:
        """Yield some rows by index, in order."""
        if self.is_plain:
            yield from self.rows.take(rows, size=size)
            return
        wanted = set(rows)
        last = max(wanted, default=-1)
        for batch in self.batches(size=size, columns=None):
            if batch.first > last:
                return
            offsets = [offset for offset in range(len(batch)) if batch.first + offset in wanted]
            if not offsets:
                continue
            if self.form is HELPSTEER2:
                pairs = batch.rows()
                taken = [pairs[offset] for offset in offsets]
            else:
                taken = batch.part(offsets).rows()
            yield from zip((batch.first + offset for offset in offsets), taken, strict=True)

    def _recognised(self) -> Form | None:
        rows = [row for _, row in self.rows.take(range(SEEN_ROWS), size=SEEN_ROWS) if isinstance(row, Row)]
        return form_of(_rows_of(self.source, *rows)) if rows else None

    def _is_rated_by_aspects(self) -> bool:
        read = (row for batch in self.rows.batches(size=SEEN_ROWS, columns=None) for row in batch.rows())
        return any(isinstance(row, Row) and is_rated_by_aspect(row) for row in read)


@dataclass(frozen=True)
class PairBatch(RawBatch):
    """Rows of another form, which are decoded as rows of pairs."""

    form: str | None
    """Name of the form; None for rows that are pairs once their cells are no text."""
    is_text: bool
    """Whether all cells are text."""
    leaves_overall_score: bool
    """Whether UltraFeedback's overall scores are not read."""
    carried: frozenset[str]
    """Columns that stay beside the pair."""

    def rows(self) -> list[Read]:
        """Decode the batch."""
        read = super().rows()
        if self.is_text:
            read = [_typed(self.source, row) if isinstance(row, Row) else row for row in read]
        if self.form is None:
            return read
        if self.form == HELPSTEER2.name:
            return self._joined(read)
        return [self._converted([row]) if isinstance(row, Row) else row for row in read]

    def _joined(self, read: list[Read]) -> list[Read]:
        """Return the pairs of two rows each, and nothing in the place of each second one."""
        converted: list[Read] = []
        while len(converted) < len(read):
            first, *others = read[len(converted) : len(converted) + 2]
            if not isinstance(first, Row):
                converted.append(first)
            elif others and _are_pair(first, others[0]):
                assert isinstance(others[0], Row)
                converted += [self._converted([first, others[0]]), NoPair(others[0].place, JOINED)]
            else:
                converted.append(self._converted([first]))
        return converted

    def _converted(self, rows: list[Row]) -> Read:
        """Return the pair of some rows as a row of our own form."""
        assert self.form is not None
        first = rows[0]
        if self.leaves_overall_score:
            rows = [without_overall_score(row) for row in rows]
        try:
            reading = FORMS[self.form].read(_rows_of(self.source, *rows), "best_worst")
        except ValueError as error:
            reason = str(error).removeprefix(first.place).lstrip(": ")
            return Unreadable(first.place, reason, "", detail=f"cannot be read in the form {self.form}")
        if not reading.pairs:
            return NoPair(first.place, SPLIT_EARLIER if reading.split_earlier else next(iter(reading.left_out)))
        (pair,) = reading.pairs
        (values,) = RATCHET.write(replace(pair, columns={}))
        beside = {name: value for name, value in first.values.items() if name in self.carried and name not in values}
        return Row(first.place, beside | values)


def _rows_of(source: str, *rows: Row) -> Rows:
    return Rows(source, tuple({name: None for row in rows for name in row.values}), list(rows))


def _typed(source: str, row: Row) -> Row:
    (row,) = typed(_rows_of(source, row)._replace(is_text=True)).rows
    return row


def _are_pair(one: Read, other: Read) -> bool:
    return isinstance(one, Row) and isinstance(other, Row) and one.values.get("prompt") == other.values.get("prompt")


def _whole_pairs(batches: Iterator[RawBatch]) -> Iterator[RawBatch]:
    """Yield the same rows, decoded, in batches that part no two rows of a pair: the last row may come with the next."""
    held: RawBatch | None = None
    for batch in batches:
        batch = _behind(held, batch)
        rows = batch.rows()
        equal = [_are_pair(one, other) for one, other in pairwise(rows)]
        run = 1 + next((number for number, same in enumerate(reversed(equal)) if not same), len(equal))
        if run % 2 == 0:
            held = None
            yield batch
            continue
        held = batch.part([len(batch) - 1])
        held = replace(held, first=batch.first + len(batch) - 1)
        if len(batch) > 1:
            yield batch.part(list(range(len(batch) - 1)))
    if held is not None:
        yield held


def _behind(held: RawBatch | None, batch: RawBatch) -> RawBatch:
    """Return a batch, decoded, with the row that was held back before it."""
    parts = [batch] if held is None else [held, batch]
    content = [_undecoded(row) for part in parts for row in part.rows()]
    numbers = [number for part in parts for number in part.numbers]
    return replace(batch, first=parts[0].first, numbers=numbers, content=content)


def _undecoded(row: Read) -> dict[str, Any] | bytes:
    assert not isinstance(row, NoPair), row.place
    return row.values if isinstance(row, Row) else row.text.encode()
