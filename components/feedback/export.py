"""Thumbs as rows of a preference data set, for other tools and for `seed_pairs`."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from components.data.messages import parse_messages
from components.feedback.store import Thumb


def export_rows(rows: Iterable[Thumb]) -> Iterator[dict[str, Any]]:
    """Yield one row per thumb whose texts are there, in the forms of docs/preference-data.md.

    With a correction it has prompt, chosen and rejected; else prompt, completion and label.
    """
    for row in rows:
        if row.messages is None or row.response is None:
            continue
        answers: dict[str, Any] = {"completion": _answer(row.response), "label": row.thumb == "up"}
        if row.correction is not None:
            answers = {"chosen": _answer(row.correction), "rejected": _answer(row.response)}
        origin = {"served": row.served, "round": row.round, "received_at": row.received_at, "row_id": row.row_id}
        yield {"prompt": parse_messages(row.messages), **answers, **origin}


def write_export(path: Path, rows: Iterable[Thumb]) -> int:
    """Write the rows to a new JSONL file that only its owner can read, and return their number.

    Raises:
        ValueError: The file exists, or its directory does not.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ValueError(f"{path} exists: name a new file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path.parent} is not a directory: create it, or name another file") from None
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in export_rows(rows)]
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return len(lines)


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
