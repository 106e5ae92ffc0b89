"""The tables of a round that MLflow's pages show as tables: samples, what became of the pairs, and which ones were refused."""

import json
from typing import Any

import pandas as pd

from components.artifacts import read_table
from components.tracking.facts import RoundFacts

SAMPLES, COUNTS, QUARANTINED = "samples.json", "validation_counts.json", "quarantined_pairs.json"
MAX_QUARANTINED = 200
"""Rows of the table of quarantined pairs; quarantine.parquet has them all."""


def tables(facts: RoundFacts) -> dict[str, pd.DataFrame]:
    """By the name of their file. MLflow's table over several runs has a row for each value of the first column, and compares the second.

    A round that quarantined nothing has no table of quarantined pairs.
    """
    quarantined = _quarantined(facts)
    found = {SAMPLES: _samples(facts), COUNTS: _counts(facts)}
    return found if quarantined.empty else found | {QUARANTINED: quarantined}


def as_json(table: pd.DataFrame) -> bytes:
    """The form in which MLflow keeps a table."""
    return str(table.to_json(orient="split", index=False)).encode()


def _samples(facts: RoundFacts) -> pd.DataFrame:
    samples = read_table(facts.directory / "evaluate" / "samples.parquet")
    first = ["prompt", "challenger", "champion", "start"]
    return samples[[*first, *(column for column in samples.columns if column not in first)]]


def _counts(facts: RoundFacts) -> pd.DataFrame:
    counts = facts.stage("validate_data", "validation.json")
    assert counts is not None, facts.directory
    total = counts["received"] + counts["replayed"]
    rows = [
        ("received", counts["received"], "from this round"),
        ("replayed", counts["replayed"], "from earlier rounds"),
        ("train", counts["train"], "trained on"),
        ("eval", counts["eval"], "measured on, never trained on"),
        ("quarantined", counts["quarantined"], "refused"),
        *((reason, number, "reason to refuse; a pair may have several") for reason, number in counts["reasons"].items()),
    ]
    with_shares = [(name, number, round(number / total, 4) if total else None, meaning) for name, number, meaning in rows]
    return pd.DataFrame(with_shares, columns=["pairs", "number", "share", "meaning"])


def _quarantined(facts: RoundFacts) -> pd.DataFrame:
    pairs = read_table(facts.directory / "validate_data" / "quarantine.parquet").head(MAX_QUARANTINED)
    columns = ("prompt", "reason", "chosen", "rejected", "origin_round")
    shown = pairs[[column for column in columns if column in pairs]].copy()
    return shown.assign(prompt=[readable(prompt) for prompt in shown["prompt"]]) if len(shown) else shown


def readable(prompt: Any) -> Any:
    """A prompt's messages as a person reads them; whatever is no list of messages, which is a reason to be here, as it is."""
    try:
        messages = [(message["role"], message["content"]) for message in json.loads(prompt)]
    except (TypeError, ValueError, KeyError):
        return prompt
    return messages[0][1] if len(messages) == 1 else "\n".join(f"{role}: {content}" for role, content in messages)
