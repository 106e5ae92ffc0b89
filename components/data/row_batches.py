"""The rows of a user's data in batches: a source of any size in bounded memory, read as often as needed.

Knows nothing of pairs.
"""

import codecs
import io
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.compressed import PACKED, kind_of, unpacked
from components.data.csv_rows import csv_records
from components.data.json_items import json_items
from components.data.raw_batch import RawBatch, Read
from components.data.rows import (
    CSV_SUFFIXES,
    JSON_SUFFIXES,
    LOCAL_PREFIXES,
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
    """A source that `rows.read_rows` reads, in batches, so that it takes the memory of a batch.

    Args:
        source: The source.
        split: Split of a data set that has splits.

    Raises:
        ValueError: The source does not exist or cannot be opened; one line with the remedy.
    """

    def __init__(self, source: str, *, split: str) -> None:
        self.source, self.split = source, split
        self.path = Path(source).expanduser()
        self.suffix = kind_of(self.path.name)
        self.is_text = self.suffix in CSV_SUFFIXES
        """Whether all cells are text, as those of a CSV file. An empty cell is a missing one."""
        self.identity = self._identity()
        self.total_rows: int | None = None
        self.total_bytes = self.path.stat().st_size if self.path.is_file() else 0
        if self._is_parquet():
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
        if self._is_parquet():
            yield from self._parquet_batches(size, columns)
        elif self.path.is_file() and self.suffix in (*JSON_SUFFIXES, *CSV_SUFFIXES):
            yield from self._text_batches(size)
        elif self.path.is_dir() or not (self.path.exists() or self.source.startswith(LOCAL_PREFIXES) or self.suffix):
            yield from self._dataset_batches(size, columns)
        else:
            yield from self._whole(size)

    def take(self, rows: Collection[int], *, size: int) -> Iterator[tuple[int, Read]]:
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

    def _is_parquet(self) -> bool:
        return self.suffix == ".parquet" and self.path.suffix not in PACKED and self.path.is_file()

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

    def _text_batches(self, size: int) -> Iterator[RawBatch]:
        try:
            with self.path.open("rb") as raw, unpacked(raw, self.path.suffix) as content:
                file = content if isinstance(content, io.BufferedReader) else io.BufferedReader(content, BUFFER_BYTES)
                try:
                    yield from self._batches_of(file, size, raw)
                finally:
                    if file is not content:
                        file.detach()
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            raise ValueError(f"file {self.source} cannot be read ({cause_of(error)}): write or copy it again") from None

    def _batches_of(self, file: io.BufferedReader, size: int, raw: IO[bytes]) -> Iterator[RawBatch]:
        if self.is_text:
            yield from self._csv_batches(size, file, raw)
        elif self.suffix == ".json" and _begins_array(file):
            items = json_items(file, source=self.source, max_characters=MAX_LINE_BYTES)
            yield from self._numbered("item", enumerate(items, 1), size, raw)
        else:
            yield from self._numbered("line", self._lines(file), size, raw)

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not blank, with their numbers."""
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES:
                raise ValueError(
                    f"{self.source} line {number} has over {MAX_LINE_BYTES >> 20} MiB: write one row a line"
                )
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.isspace():
                yield number, line

    def _numbered(
        self, noun: str, items: Iterable[tuple[int, bytes | dict[str, Any]]], size: int, raw: IO[bytes]
    ) -> Iterator[RawBatch]:
        done = 0
        numbers: list[int] = []
        content: list[Any] = []
        for number, item in items:
            numbers.append(number)
            content.append(item)
            if len(content) == size:
                yield RawBatch(self.source, done, noun, numbers, content, raw.tell())
                done += size
                numbers, content = [], []
        if content:
            yield RawBatch(self.source, done, noun, numbers, content, raw.tell())

    def _csv_batches(self, size: int, file: io.BufferedReader, raw: IO[bytes]) -> Iterator[RawBatch]:
        beginning = file.peek(BUFFER_BYTES).decode("utf-8-sig", errors="ignore")
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            delimiter = "\t" if self.suffix == ".tsv" else ""
            records = csv_records(text, beginning, source=self.source, delimiter=delimiter)
            names = tuple(next(records)[1])
            refuse_doubled(self.source, names)
            rows = (
                (line, {name: cell for name, cell in zip(names, cells, strict=True) if cell}) for line, cells in records
            )
            yield from self._numbered("line", rows, size, raw)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.source} is not valid UTF-8 ({error.reason}): save the file as UTF-8") from None
        finally:
            text.detach()

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
        """Refuse what `read_rows` refuses."""
        read_rows(self.source, split=self.split, columns=None)
        raise AssertionError(f"{self.source} is read in no batches")
        yield


def _begins_array(file: io.BufferedReader) -> bool:
    return bool(file.peek(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[")
