"""The data checks of a round's own pairs: the same as `ratchet validate` runs over a file, by the campaign's limits."""

import logging
import math
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from components.checks.file_check import FileCheck, FileResult
from components.config import ChecksConfig
from components.data.messages import parse_messages
from components.data.raw_batch import RawBatch, Read
from components.data.rows import Row
from components.records import DataRejected
from components.validation.schema import messages_of

CELLS = ("p", "margin", "tag", "judge")

log = logging.getLogger(__name__)


class TableRows:
    """A table of pairs as the checks read a file: in batches, and some rows again.

    Args:
        pairs: The table.
    """

    source = "pair"

    def __init__(self, pairs: pd.DataFrame) -> None:
        self.rows = [_row(values) for values in pairs.to_dict("records") if messages_of(values["prompt"]) is not None]
        self.total_rows: int | None = len(self.rows)
        self.total_bytes = 0

    def batches(self, *, size: int, columns: Collection[str] | None) -> Iterator[RawBatch]:
        """Yield the rows in order, with all their columns."""
        for first in range(0, len(self.rows), size):
            part = self.rows[first : first + size]
            yield RawBatch(self.source, first, "", range(first + 1, first + 1 + len(part)), part, 0)

    def take(self, rows: Collection[int], *, size: int) -> Iterator[tuple[int, Read]]:
        """Yield some rows by index, in order."""
        for index in sorted(set(rows)):
            yield index, Row(f"{self.source} {index + 1}", self.rows[index])


def check_round(pairs: pd.DataFrame, config: ChecksConfig) -> FileResult | None:
    """Check a round's pairs, and log what is above its limit; None if no pair can be read.

    Held-out prompts are none of these checks: the stage compares every pair with them.
    """
    rows = TableRows(pairs)
    if not rows.rows:
        return None
    try:
        result = FileCheck(rows, config, None).run()
    except ValueError as error:
        log.warning("the data checks cannot read a single pair: %s", error)
        return None
    broken = [check for check in result.checks if check.verdict in ("fail", "warn")]
    if broken:
        told = "; ".join(f"{check.name}: {check.summary}, limit {check.max_share:.1%}" for check in broken)
        log.warning("data checks above their limits: %s", told)
    return result


def as_json(result: FileResult | None) -> list[dict[str, Any]]:
    """Return the verdicts as validation.json holds them: without examples, since texts may not leave the machine."""
    if result is None:
        return []
    kept = {"name", "verdict", "summary", "share", "max_share", "found", "details"}
    return [check.model_dump(mode="json", include=kept) for check in result.checks]


def examples_of(result: FileResult | None) -> pd.DataFrame:
    """Return the masked examples of the checks that are above their limits, a row each."""
    broken = [] if result is None else [check for check in result.checks if check.verdict in ("fail", "warn")]
    rows = [{"check": check.name, **example.model_dump()} for check in broken for example in check.examples]
    return pd.DataFrame(rows, columns=["check", "place", "detail", "excerpt"], dtype="str")


def refuse_failed(result: FileResult | None) -> None:
    """Refuse a round's data if a check failed.

    Raises:
        DataRejected: The message names the checks and their limits.
    """
    failed = [check for check in result.checks if check.verdict == "fail"] if result is not None else []
    if failed:
        named = "; ".join(f"{check.name}: {check.summary}, limit {check.max_share:.1%}" for check in failed)
        raise DataRejected(f"the round's pairs fail data checks ({named}): see validation.json, or change checks")


def _row(values: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return a pair, or a single response, of a table as a row of a file; a missing value is none."""
    cells = {name: values[name] for name in CELLS if not _is_missing(values[name])}
    # As messages, so that an answer that happens to be JSON is not read as one.
    answers = {
        side: {"role": "assistant", "content": values[side]}
        for side in ("chosen", "rejected")
        if isinstance(values[side], str)
    }
    if len(answers) == 1:
        ((side, answer),) = answers.items()
        answers = {"completion": answer}
        cells["label"] = side == "chosen"
    return {"prompt": parse_messages(values["prompt"]), **answers, **cells}


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
