"""Rows of a CSV file: a header line, then one row per record, whose cells are text. Knows no prompts or pairs."""

import csv
import io
import sys
from collections.abc import Iterator
from typing import TextIO

DELIMITERS = (",", ";", "\t", "|")
"""What may stand between two cells: the one that splits the header into most cells does."""


def parse_csv(text: str, *, source: str, delimiter: str = "") -> tuple[tuple[str, ...], list[tuple[int, list[str]]]]:
    """Split CSV text into its header and its records.

    Cells in double quotes may hold delimiters, line breaks and doubled quotes (RFC 4180). Blank lines are skipped.

    Args:
        text: The content, without a byte order mark.
        source: Name of the file, for errors.
        delimiter: What stands between two cells; empty chooses among `DELIMITERS` by the header.

    Returns:
        The names of the columns, and for each record the line on which it ends and its cells.

    Raises:
        ValueError: A quote is not closed or a record has not as many cells as the header; names the line.
    """
    (_, header), *rows = csv_records(io.StringIO(text, newline=""), text, source=source, delimiter=delimiter)
    return tuple(header), rows


def csv_records(file: TextIO, beginning: str, *, source: str, delimiter: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield the header and then the records of a CSV file, each with the line on which it ends.

    Args:
        file: The file, opened with `newline=""`.
        beginning: Its text, or enough of it to hold the header.
        source: As of `parse_csv`, and so are `delimiter` and the errors.
        delimiter: What stands between two cells.
    """
    between = delimiter or _delimiter(beginning)
    records = _records(file, source, between)
    line, header = next(records, (0, []))
    yield line, header
    for line, cells in records:
        if len(cells) != len(header):
            raise ValueError(
                f"{source} line {line} has {len(cells)} cells, but the header has {len(header)}: put cells that hold "
                f"{between!r} or a line break in double quotes"
            )
        yield line, cells


def format_record(cells: list[str], *, delimiter: str) -> str:
    """Return a record as a line of CSV that `parse_csv` reads back."""
    text = io.StringIO(newline="")
    # The writer puts cells in quotes that hold a character of the line's end, and the reader ends a line at both.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _delimiter(text: str) -> str:
    def num_cells(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=num_cells)


def _records(file: TextIO, source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # The module's own limit is 128 KiB per cell, less than one long conversation.
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"{source} line {reader.line_num} is not valid CSV ({error}): close each double quote, and double those "
            "within a cell"
        ) from None
    finally:
        csv.field_size_limit(limit)
