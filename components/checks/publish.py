"""Checks a file of preference pairs and writes what was found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from components.artifacts import write_bytes, write_json
from components.checks.entries import LABEL_COLUMNS
from components.checks.file_check import FileCheck, FileResult
from components.checks.held_out_file import read_held_out
from components.checks.page import render_page
from components.checks.quarantine import write_quarantine
from components.config import ChecksConfig
from components.data.forms.pair_source import PairSource
from components.data.row_batches import RowSource

RESULT, QUARANTINE, PAGE = "validation.json", "quarantine.parquet", "report.html"


def check_pairs(source: str, *, split: str, config: ChecksConfig, held_out: str | None, out: Path | None) -> FileResult:
    """Check a file of preference pairs.

    Args:
        source: The file or data set, in any published form.
        split: Split of a data set that has splits.
        config: What is checked, and the limits.
        held_out: Data whose prompts must not be trained on; None compares with none.
        out: Directory for validation.json, quarantine.parquet and report.html; None writes nothing.

    Raises:
        ValueError: A file cannot be read, or no row is a pair; one line with the remedy.
    """
    rows = RowSource(source, split=split)
    index = (
        read_held_out(held_out, split=split, similarity=config.duplicate_similarity) if held_out is not None else None
    )
    pairs = PairSource(rows, carried=LABEL_COLUMNS)
    result = FileCheck(pairs, config, index).run()
    result = replace(result, form=pairs.form.name if pairs.form is not None else "")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_quarantine(out / QUARANTINE, rows, result)
        write_json(out / RESULT, as_json(result))
        write_bytes(out / PAGE, render_page(result).encode())
    return result


def as_json(result: FileResult) -> dict[str, Any]:
    """Return a result as validation.json holds it."""
    return {
        "source": result.source,
        "form": result.form,
        "verdict": result.verdict,
        "rows": result.num_rows,
        "pairs": result.num_pairs,
        "left_out": result.left_out,
        "quarantined": len(result.rejected),
        "checks": [check.model_dump(mode="json") for check in result.checks],
    }
