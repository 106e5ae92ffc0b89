"""Writes the rows that checks set aside, each as it was read, with its reasons."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.checks.file_check import FileResult
from components.checks.scan import BATCH_ROWS
from components.data.raw_batch import NoPair, Unreadable
from components.data.row_batches import RowSource

SCHEMA = pa.schema([("row", pa.int64()), ("place", pa.string()), ("reason", pa.string()), ("content", pa.string())])
"""Index of the row from 0, its name, its reasons, and its columns as JSON, or its text if it is not JSON."""


def write_quarantine(path: Path, source: RowSource, result: FileResult) -> None:
    """Write the rejected rows as Parquet.

    Args:
        path: The file to write.
        source: Where the rows are read again.
        result: What the checks found in it.
    """
    rows: list[tuple[int, str, str, str]] = []
    # Renamed into place when it is whole, so that nobody takes a part of it for all.
    unfinished = path.with_name(f".{path.name}.tmp")
    with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
        for index, row in source.take(result.rejected, size=BATCH_ROWS):
            assert not isinstance(row, NoPair), row.place
            content = row.text if isinstance(row, Unreadable) else _as_json(row.values)
            rows.append((index, row.place, result.rejected[index], content))
            if len(rows) == BATCH_ROWS:
                writer.write_table(_table(rows))
                rows = []
        writer.write_table(_table(rows))
    os.replace(unfinished, path)


def _table(rows: list[tuple[int, str, str, str]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[] for _ in SCHEMA]
    return pa.table([pa.array(list(values), field.type) for values, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def _as_json(values: dict[str, object]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str)
