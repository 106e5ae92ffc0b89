"""Rows of a user's data as they were read, and their decoding, which another process may do. Knows no file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from components.data.rows import Row, parse_json, without_nulls

ONCE = (b'"prompt"', b'"chosen"', b'"rejected"')
"""Keys that a row has once; a line with one of them twice may have a key twice in one object."""


class Unreadable(NamedTuple):
    """A row that is not an object of columns."""

    place: str
    reason: str
    text: str
    detail: str = "is not a JSON object"
    """What it is, in one of few wordings."""


class NoPair(NamedTuple):
    """A row that says nothing of which of two answers is better, though nothing is wrong with it."""

    place: str
    reason: str


Read = Row | Unreadable | NoPair
SPLIT_EARLIER = "chosen and rejected differ before the last answer"
JOINED = ""
"""Reasons of `NoPair`: answers to different prompts, and a row whose pair stands in the place of the row before."""


@dataclass(frozen=True)
class RawBatch:
    """Rows as they were read, not decoded yet."""

    source: str
    first: int
    """Index of the first row within the source, from 0."""
    noun: str
    """What a row is called: `line`, `row` or `item`; empty if the source says it."""
    numbers: Sequence[int]
    """Number of each row as errors name it, from 1."""
    content: Sequence[bytes | dict[str, Any]] | pa.RecordBatch
    read_bytes: int
    """Bytes of the source that were read up to its end, compressed as they are; 0 if that is not known."""

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, offset: int) -> str:
        """Return the name of a row of the batch, for errors."""
        return f"{self.source} {self.noun}".rstrip() + f" {self.numbers[offset]}"

    def rows(self) -> list[Read]:
        """Decode the batch."""
        if isinstance(self.content, pa.RecordBatch):
            columns = {
                name: _cells(column)
                for name, column in zip(self.content.schema.names, self.content.columns, strict=True)
            }
            values = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
            return [Row(self.place(offset), cells) for offset, cells in enumerate(values)]
        return [_decoded(item, self.place(offset)) for offset, item in enumerate(self.content)]

    def part(self, offsets: list[int]) -> "RawBatch":
        """Return some rows of the batch, by offset."""
        content = (
            self.content.take(pa.array(offsets))
            if isinstance(self.content, pa.RecordBatch)
            else [self.content[offset] for offset in offsets]
        )
        return replace(self, numbers=[self.numbers[offset] for offset in offsets], content=content)


def _cells(column: pa.Array) -> list[Any]:
    values = column.to_pylist()
    return [without_nulls(value) for value in values] if _may_hold_nulls(column) else values


def _may_hold_nulls(column: pa.Array) -> bool:
    """Return whether Arrow may have put nulls for keys which only other rows have."""
    if not pa.types.is_nested(column.type):
        return False
    if column.null_count:
        return True
    if pa.types.is_struct(column.type):
        return any(field.null_count or _may_hold_nulls(field) for field in column.flatten())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        inner = column.flatten()
        return bool(inner.null_count) or _may_hold_nulls(inner)
    return True


def _decoded(item: Any, place: str) -> Row | Unreadable:
    if isinstance(item, dict):
        return Row(place, item)
    try:
        value = _parsed(item, place)
    except ValueError as error:
        return Unreadable(place, str(error).removeprefix(f"{place} "), item.decode(errors="replace"))
    if isinstance(value, dict):
        return Row(place, value)
    reason = f"must be a JSON object, not {type(value).__name__}: write one object such as {{...}} per line"
    return Unreadable(place, reason, item.decode(errors="replace"))


def _parsed(line: bytes, place: str) -> Any:
    """Parse a line; the slower parser reads what may have a key twice, and says what is wrong with others."""
    if all(line.count(name) < 2 for name in ONCE):
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass
    return parse_json(line.strip(), place)
