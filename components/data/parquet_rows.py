"""Writes rows as Parquet: chat messages are lists of structs, as `datasets` and TRL have them. Knows no pairs.

The types of the columns are those of all rows, so the rows wait in a temporary file until the last one is known, and
memory holds one batch of them.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.rows import cause_of, without_nulls

BATCH_ROWS = 1000
AS_TEXT = "tools"
"""Column that stands as JSON text, which TRL reads too: JSON schemas have values of all kinds under one key."""
Row = dict[str, Any]


def write_parquet(file: IO[bytes], rows: Iterable[Row], *, name: str) -> int:
    """Write rows one after the other, and return how many there were.

    Args:
        file: An open file.
        rows: JSON values by column; those whose `lost_in_parquet` is not empty do not come back as they are.
        name: Name of the file, for errors.

    Raises:
        ValueError: A column holds values of kinds that do not go together; one line.
    """
    with tempfile.TemporaryFile() as waiting:
        schema, count = pa.schema([]), 0
        for batch in _batches(map(_with_text, rows)):
            waiting.write(b"".join(json.dumps(row).encode() + b"\n" for row in batch))
            count += len(batch)
            schema = _with_types(schema, batch, name)
        waiting.seek(0)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in _batches(json.loads(line) for line in waiting):
                columns = [pa.array([row.get(field.name) for row in batch], field.type) for field in schema]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return count


def lost_in_parquet(row: Row) -> str:
    """Return what a row would lose; empty if it comes back as it is.

    A struct has a null for each key that only other rows have, so a null of the row's own is one of them.
    """
    nested = [value for column, value in row.items() if column != AS_TEXT]
    return "" if without_nulls(nested) == nested else "a null within a list or an object, which Parquet does not keep"


def _with_text(row: Row) -> Row:
    value = row.get(AS_TEXT)
    is_nested = isinstance(value, list | dict)
    return row | {AS_TEXT: json.dumps(value, ensure_ascii=False)} if is_nested else row


def _with_types(schema: pa.Schema, batch: list[Row], name: str) -> pa.Schema:
    """Return the columns and types of a schema and of a batch."""
    columns = dict.fromkeys(column for row in batch for column in row)
    for column in columns:
        try:
            own = pa.schema([(column, pa.array([row.get(column) for row in batch]).type)])
            schema = pa.unify_schemas([schema, own], promote_options="permissive")
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(
                f"{name}: the column {column} holds values of several kinds, which Parquet cannot "
                f"({cause_of(error)}): write .jsonl"
            ) from None
    return schema


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield batch
