"""`preferences.parquet`: a row a preference pair, named by its content."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from components.artifacts import digest, read_table, write_bytes, write_table
from components.data.messages import Messages, format_messages, parse_messages
from components.data.prompts import prompt_id

PAIRS = "preferences.parquet"
PORTABLE = "preferences.jsonl"
SIDES = ("chosen", "rejected")
PAIR_TYPES = {
    "pair_id": "str",
    "prompt_id": "str",
    "prompt": "str",
    "chosen": "str",
    "rejected": "str",
    "p": "float64",
    "margin": "float64",
    "tag": "str",
    "judge": "str",
    "verdict_ids": "object",
}


def pair_row(
    messages: Messages,
    chosen: str | None,
    rejected: str | None,
    *,
    p: float,
    margin: float | None,
    tag: str,
    judge: str,
    verdict_ids: list[str],
) -> dict[str, Any]:
    """One row.

    Args:
        messages: The prompt.
        chosen: Text of the preferred answer, or of a single desirable one; None of an undesirable one.
        rejected: Text of the other one; None of a single desirable one.
        p: Probability that chosen is really preferred, or that a single response is what its side says, in [0, 1].
        margin: Difference of the judge's scores; None where a data set does not say.
        tag: Kind of preference.
        judge: Who decided.
        verdict_ids: The conclusions that it was decided by.
    """
    prompt = format_messages(messages)
    return {
        "pair_id": digest([prompt, chosen, rejected])[:16],
        "prompt_id": prompt_id(messages),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "p": p,
        "margin": margin,
        "tag": tag,
        "judge": judge,
        "verdict_ids": verdict_ids,
    }


def write_pairs(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes `preferences.parquet` in a directory."""
    write_table(out / PAIRS, pd.DataFrame(list(rows), columns=list(PAIR_TYPES)).astype(PAIR_TYPES))


def write_portable(out: Path) -> None:
    """Writes `preferences.jsonl` beside `preferences.parquet`: chat messages in the form of TRL and `seed_pairs`.

    Pairs have the columns prompt, chosen and rejected; single responses prompt, completion and label.
    """
    lines = []
    answers: dict[str, Any]
    for row in read_table(out / PAIRS).to_dict("records"):
        answers = {side: [{"role": "assistant", "content": row[side]}] for side in SIDES if isinstance(row[side], str)}
        if len(answers) < len(SIDES):
            ((side, completion),) = answers.items()
            answers = {"completion": completion, "label": side == "chosen"}
        given = {name: None if pd.isna(row[name]) else row[name] for name in ("p", "margin", "tag")}
        line = {"prompt": parse_messages(row["prompt"]), **answers, **given}
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    write_bytes(out / PORTABLE, "".join(lines).encode())
