import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.checks.file_check import FileCheck, FileResult
from components.checks.outcome import CheckResult
from components.config import ChecksConfig
from components.data.row_batches import RowSource

Rows = list[dict[str, Any]]
Checker = Callable[..., FileResult]


@pytest.fixture
def check(tmp_path: Path) -> Checker:
    """Check rows, each a dict or the text of a line."""

    def run(rows: list[Any], **settings: Any) -> FileResult:
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return FileCheck(RowSource(str(path), split="train"), ChecksConfig(**settings), None).run()

    return run


def of(result: FileResult, name: str) -> CheckResult:
    (found,) = [check for check in result.checks if check.name == name]
    return found
