"""The rows of a user's data in batches: a source of any size in bounded memory, read as often as needed.

Knows nothing of pairs.
"""

import codecs
import gzip
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.raw_batch import RawBatch, Unreadable
from components.data.rows import (
    LOCAL_PREFIXES,
    Row,
    cause_of,
    columns_to_read,
    hub_dataset,
    read_rows,
    refuse_doubled,
    saved_dataset,
)

MAX_LINE_BYTES = 2**28
BUFFER_BYTES = 2**20


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
                rows_of_batch = batch.part(offsets).rows()
                yield from zip((batch.first + offset for offset in offsets), rows_of_batch, strict=True)

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
            for content in file.iter_batches(batch_size=size, columns=columns_to_read(names, columns)):
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
        table = open_.select_columns(columns_to_read(names, columns)).with_format("arrow")
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
