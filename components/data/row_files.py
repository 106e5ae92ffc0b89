"""Writes rows into one file that `rows.read_rows` reads: JSON lines, a JSON array, CSV or Parquet.

JSON and CSV are packed by the last suffix.

The file appears complete or not at all. Knows no prompts or pairs.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from components.artifacts import sync
from components.data.compressed import PACKED, kind_of, packing
from components.data.csv_rows import format_record
from components.data.parquet_rows import write_parquet
from components.data.rows import CSV_SUFFIXES, JSON_SUFFIXES

Row = dict[str, Any]


def check_writable(out: Path) -> None:
    """Refuse a path that cannot become a file of rows.

    Raises:
        ValueError: Its kind is not known, it is a directory, or its directory does not exist.
    """
    if kind_of(out.name) not in (*JSON_SUFFIXES, *CSV_SUFFIXES) and not is_parquet(out):
        kinds = ", ".join((*JSON_SUFFIXES, *CSV_SUFFIXES))
        packed = ", ".join(PACKED)
        raise ValueError(
            f"{out} is not a kind of file that can be written: use .parquet, or {kinds}, packed or not ({packed})"
        )
    if out.is_dir():
        raise ValueError(f"{out} is a directory: name a file")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"the directory {out.absolute().parent} does not exist: make it, or name another file")


def is_csv(out: Path) -> bool:
    """Return whether a file of this name holds CSV, whose cells are text."""
    return kind_of(out.name) in CSV_SUFFIXES


def is_parquet(out: Path) -> bool:
    """Return whether a file of this name holds Parquet."""
    return out.suffix == ".parquet"


def cells(row: Row) -> dict[str, str]:
    """Return a row as the cells of a CSV file: lists and objects as JSON, and nothing for null."""
    return {name: _cell(value) for name, value in row.items()}


def write_rows(out: Path, rows: Iterable[Row]) -> int:
    """Write rows one after the other, replace an earlier file, and return how many there were.

    The rows of a CSV file are held in memory, since its header names the columns of all.

    Args:
        out: A path that `check_writable` accepts.
        rows: JSON values by column.

    Raises:
        ValueError: A column of a Parquet file holds values of kinds that do not go together.
    """
    with _replacing(out) as file, packing(file, name=out.name) as packed:
        if is_parquet(out):
            return write_parquet(file, rows, name=str(out))
        if is_csv(out):
            return _write_csv(packed, list(rows), delimiter="\t" if kind_of(out.name) == ".tsv" else ",")
        return _write_json(packed, rows, is_array=kind_of(out.name) == ".json")


def _write_json(file: Any, rows: Iterable[Row], *, is_array: bool) -> int:
    count = 0
    for count, row in enumerate(rows, 1):
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        before = "" if not is_array else "[\n" if count == 1 else ",\n"
        file.write((before + text + ("" if is_array else "\n")).encode())
    if is_array:
        file.write(b"\n]\n" if count else b"[]\n")
    return count


def _write_csv(file: Any, rows: list[Row], *, delimiter: str) -> int:
    texts = [cells(row) for row in rows]
    names = list(dict.fromkeys(name for row in texts for name in row))
    records = [names, *([row.get(name, "") for name in names] for row in texts)]
    for record in records:
        file.write(format_record(record, delimiter=delimiter).encode())
    return len(rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `out` when the block ends without an error."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(out)  # a full disk is noticed by a call that knows no name
        raise
    sync(out.absolute().parent)
