"""The rows of a user's data in batches: a source of any size in bounded memory, read as often as needed.

Knows nothing of pairs. A batch is not decoded where it is read, so that another process can do that.
"""

import codecs
import gzip
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.rows import (
    LOCAL_PREFIXES,
    Row,
    cause_of,
    hub_dataset,
    parse_json,
    read_rows,
    refuse_doubled,
    saved_dataset,
    wanted_columns,
    without_nulls,
)

MAX_LINE_BYTES = 2**28
BUFFER_BYTES = 2**20
ONCE = (b'"prompt"', b'"chosen"', b'"rejected"')
"""Keys that a row has once; a line with one of them twice may have a key twice in one object."""


class Unreadable(NamedTuple):
    """A row that is not an object of columns."""

    place: str
    reason: str
    text: str


@dataclass(frozen=True)
class RawBatch:
    """Rows as they were read, not decoded yet."""

    source: str
    first: int
    """Index of the first row within the source, from 0."""
    noun: str
    """What a row is called: `line`, `row` or `item`."""
    numbers: Sequence[int]
    """Number of each row as errors name it, from 1."""
    content: Sequence[bytes] | Sequence[dict[str, Any]] | pa.RecordBatch
    read_bytes: int
    """Bytes of the source that were read up to its end, compressed as they are; 0 if that is not known."""

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, offset: int) -> str:
        """Return the name of a row of the batch, for errors."""
        return f"{self.source} {self.noun} {self.numbers[offset]}"

    def rows(self) -> list[Row | Unreadable]:
        """Decode the batch."""
        if isinstance(self.content, pa.RecordBatch):
            columns = {
                name: _cells(column)
                for name, column in zip(self.content.schema.names, self.content.columns, strict=True)
            }
            values = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
            return [Row(self.place(offset), cells) for offset, cells in enumerate(values)]
        return [_decoded(item, self.place(offset)) for offset, item in enumerate(self.content)]


class RowSource:
    """A source that `rows.read_rows` reads, in batches.

    JSON lines and Parquet files take the memory of a batch. A `.json` file that holds one array is read whole.

    Args:
        source: The source.
        split: Split of a data set that has splits.

    Raises:
        ValueError: The source does not exist or cannot be opened; one line with the remedy.
    """

    def __init__(self, source: str, *, split: str) -> None:
        self.source, self.split = source, split
        self.path = Path(source).expanduser()
        self.suffix = Path(self.path.name.removesuffix(".gz")).suffix
        self.identity = self._identity()
        self.total_rows: int | None = None
        self.total_bytes = self.path.stat().st_size if self.path.is_file() else 0
        if self.suffix == ".parquet" and self.path.is_file():
            self.total_rows = self._parquet().metadata.num_rows

    def batches(self, *, size: int, columns: Collection[str] | None) -> Iterator[RawBatch]:
        """Yield the rows in order.

        Args:
            size: Most rows of a batch.
            columns: Columns to read of a table if they exist; None reads all. JSON rows are read whole.

        Raises:
            ValueError: The source cannot be read, or changed since it was opened.
        """
        if self._identity() != self.identity:
            raise ValueError(f"{self.source} changed while it was checked: check it again when it is complete")
        if self.path.is_file() and self.suffix == ".parquet":
            yield from self._parquet_batches(size, columns)
        elif self.path.is_file() and self.suffix in (".jsonl", ".json", ".ndjson"):
            yield from self._json_batches(size)
        elif self.path.is_dir() or not (self.path.exists() or self.source.startswith(LOCAL_PREFIXES) or self.suffix):
            yield from self._dataset_batches(size, columns)
        else:
            yield from self._whole(size)

    def take(self, rows: Collection[int], *, size: int) -> Iterator[tuple[int, Row | Unreadable]]:
        """Yield some rows with all their columns, by index and in order; others are not decoded.

        Args:
            rows: Indices of the rows, from 0.
            size: Most rows that are read at a time.
        """
        wanted = set(rows)
        last = max(wanted, default=-1)
        for batch in self.batches(size=size, columns=None):
            if batch.first > last:
                return
            offsets = [offset for offset in range(len(batch)) if batch.first + offset in wanted]
            if offsets:
                part = _part(batch, offsets)
                yield from zip((batch.first + offset for offset in offsets), part.rows(), strict=True)

    def _identity(self) -> tuple[int, int] | None:
        """Return the size and the time of change of a file."""
        if not self.path.is_file():
            return None
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def _parquet(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"file {self.source} cannot be read as Parquet: {cause_of(error)}") from None

    def _parquet_batches(self, size: int, columns: Collection[str] | None) -> Iterator[RawBatch]:
        file = self._parquet()
        names = tuple(file.schema_arrow.names)
        refuse_doubled(self.source, names)
        done = 0
        try:
            for content in file.iter_batches(batch_size=size, columns=wanted_columns(names, columns)):
                numbers = range(done + 1, done + 1 + len(content))
                share = (done + len(content)) / max(file.metadata.num_rows, 1)
                yield RawBatch(self.source, done, "row", numbers, content, int(self.total_bytes * share))
                done += len(content)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(f"file {self.source} cannot be read as Parquet: {cause_of(error)}") from None

    def _json_batches(self, size: int) -> Iterator[RawBatch]:
        try:
            with self.path.open("rb") as raw, _expanded(raw, self.path.suffix) as file:
                if self.suffix == ".json" and _begins_array(file):
                    yield from self._whole(size)
                    return
                yield from self._line_batches(size, file, raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"file {self.source} cannot be read ({cause_of(error)}): write or copy it again") from None

    def _line_batches(self, size: int, file: IO[bytes], raw: IO[bytes]) -> Iterator[RawBatch]:
        lines: list[bytes] = []
        numbers: list[int] = []
        done = number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES:
                raise ValueError(
                    f"{self.source} line {number} has over {MAX_LINE_BYTES >> 20} MiB: write one row a line"
                )
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.isspace():
                lines.append(line)
                numbers.append(number)
            if len(lines) == size:
                yield RawBatch(self.source, done, "line", numbers, lines, raw.tell())
                done += len(lines)
                lines, numbers = [], []
        if lines:
            yield RawBatch(self.source, done, "line", numbers, lines, raw.tell())

    def _dataset_batches(self, size: int, columns: Collection[str] | None) -> Iterator[RawBatch]:
        open_ = saved_dataset(self.path, self.split) if self.path.is_dir() else hub_dataset(self.source, self.split, "")
        names = tuple(open_.column_names)
        refuse_doubled(self.source, names)
        self.total_rows = len(open_)
        table = open_.select_columns(wanted_columns(names, columns)).with_format("arrow")
        done = 0
        for part in table.iter(batch_size=size):
            (content,) = part.combine_chunks().to_batches()
            yield RawBatch(self.source, done, "row", range(done + 1, done + 1 + len(content)), content, 0)
            done += len(content)

    def _whole(self, size: int) -> Iterator[RawBatch]:
        """Yield what only `read_rows` reads, or refuses."""
        read = read_rows(self.source, split=self.split, columns=None)
        for first in range(0, len(read.rows), size):
            rows = [row.values for row in read.rows[first : first + size]]
            yield RawBatch(self.source, first, "item", range(first + 1, first + 1 + len(rows)), rows, 0)


def _expanded(file: IO[bytes], suffix: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if suffix == ".gz" else file


def _begins_array(file: IO[bytes]) -> bool:
    start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return bool(start[:1] == b"[")


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


def _part(batch: RawBatch, offsets: list[int]) -> RawBatch:
    content = (
        batch.content.take(pa.array(offsets))
        if isinstance(batch.content, pa.RecordBatch)
        else [batch.content[offset] for offset in offsets]
    )
    numbers = [batch.numbers[offset] for offset in offsets]
    return RawBatch(batch.source, batch.first, batch.noun, numbers, content, batch.read_bytes)


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
