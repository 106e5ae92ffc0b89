"""The other columns of a user's rows: what a prompt's row holds beside the prompt, for functions that judge with it.

Owns which values are carried and as what, and the text that stands for them in tables. Knows no prompt and no judge.
"""

import datetime
import decimal
import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from components.data.rows import Row

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, Any]
"""JSON values by the names of their columns."""
COLUMNS = "columns"
"""Column of our tables that holds `Columns` as JSON text; absent if no row has any."""

log = logging.getLogger(__name__)


class _NotJson(Exception):
    """A value has no form in JSON."""


def read_columns(source: str, rows: Sequence[Row], *, without: Collection[str]) -> list[dict[str, Any]]:
    """Return the other columns of each row as JSON values.

    Dates and times become ISO 8601 text, durations seconds, decimals text, NaN and missing values null. A column that
    holds anything else in some row (bytes, an infinity) is left out of all rows, and one line says so.

    Args:
        source: Name of the data, for messages.
        rows: The rows, with all their columns.
        without: Names of the columns that make the prompt or the responses.
    """
    columns: list[dict[str, Any]] = [{} for _ in rows]
    left_out: dict[str, str] = {}
    for row, carried in zip(rows, columns, strict=True):
        for name, value in row.values.items():
            if name in without or name in left_out:
                continue
            try:
                carried[name] = _json_value(value)
            except _NotJson as error:
                left_out[name] = f"{name} ({row.place} holds {error})"
    if left_out:
        log.warning(
            "%s: these columns are not carried, because JSON cannot hold them: %s",
            source,
            ", ".join(left_out.values()),
        )
    return [{name: value for name, value in carried.items() if name not in left_out} for carried in columns]


def format_columns(columns: Columns) -> str:
    """Return columns as the JSON text that tables hold."""
    return json.dumps(dict(columns), ensure_ascii=False, allow_nan=False)


def columns_of_table(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the columns of each row of one of our tables; they are empty if the table has none."""
    if COLUMNS not in table:
        return [{} for _ in range(len(table))]
    return [parse_columns(text) for text in table[COLUMNS]]


def parse_columns(text: Any) -> dict[str, Any]:
    """Return the columns of one row of a table; they are empty if it has none, as pairs from a data set have not."""
    if not isinstance(text, str):
        return {}
    columns = json.loads(text)
    assert isinstance(columns, dict), text
    return columns


class Claim(NamedTuple):
    """The row whose columns a prompt has."""

    columns: Columns
    place: str


def warn_of_conflicts(source: str, repeated: Sequence[tuple[Claim, Claim]]) -> None:
    """Log in one line how many rows repeat a prompt with other columns; the first row's are used.

    Args:
        source: Name of the data.
        repeated: The first row of a prompt and a later row of the same prompt, for each later row.
    """
    conflicts = [(first, later) for first, later in repeated if first.columns != later.columns]
    if not conflicts:
        return
    first, later = conflicts[0]
    names = [*dict.fromkeys([*first.columns, *later.columns])]
    differing = [name for name in names if first.columns.get(name) != later.columns.get(name)]
    log.warning(
        "%s: %d rows repeat a prompt with other values in other columns, and the first row's are used (%s is like %s, "
        "but differs in %s): remove one of them",
        source,
        len(conflicts),
        later.place,
        first.place,
        ", ".join(differing),
    )


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise _NotJson("an infinity")
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if hasattr(value, "tolist"):  # of numpy
        return _json_value(value.tolist())
    raise _NotJson(f"a value of type {type(value).__name__}")
