"""Checks of a pair's form, by a pandera schema over a flat view of the table. Needs no tokenizer.

If single responses are allowed, a row may lack one of its answers: the response is desirable if it is `chosen`,
undesirable if it is `rejected`.

The only importer of pandera. A failure is reported as (row, reason); the library's own message holds raw rows and is
never shown.
"""

import json
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from components.config import Takes
from components.data.conversations import ASKING, ROLES
from components.data.messages import Messages
from components.data.prompts import content_key, prompt_id

COLUMNS = ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "p", "margin", "tag", "judge", "verdict_ids")
"""Columns of a table of pairs."""
NO_PROMPT = "prompt is no list of chat messages"
NULL_REASONS = {
    "last_role": NO_PROMPT,
    "chosen": "chosen is no text",
    "rejected": "rejected is no text",
    "p": "p is no number",
    "tag": "tag is no text",
}


def _filled(texts: pd.Series) -> pd.Series:
    return texts.str.strip() != ""


def _rule(test: Any, reason: str) -> pa.Check:
    return pa.Check(test, error=reason)


VALUES = {
    "last_role": pa.Column(str, _rule(lambda roles: roles.isin(ASKING), "prompt does not end with a user message")),
    "last_text": pa.Column(str, _rule(_filled, "prompt is empty"), nullable=True),
    "p": pa.Column(float, _rule(lambda p: p.between(0, 1), "p is outside [0, 1]")),
    # A data set may have no margins, so a missing one is not a defect.
    "margin": pa.Column(
        float,
        _rule(lambda margin: np.isfinite(margin) & (margin >= 0), "margin is negative or infinite"),
        nullable=True,
    ),
    "tag": pa.Column(str, _rule(_filled, "tag is empty")),
    "pair": pa.Column(str, _rule(lambda pairs: ~pairs.duplicated(), "duplicate of another pair"), nullable=True),
}
RULES = [
    _rule(
        lambda flat: flat["prompt_id"].eq(flat["content_id"]) | flat["content_id"].isna(),
        "prompt_id is not the prompt's",
    ),
    _rule(lambda flat: flat["chosen"].str.strip().ne(flat["rejected"].str.strip()), "chosen equals rejected"),
    _rule(lambda flat: ~flat["swapped"].isin(flat["pair"].dropna()), "contradicts another pair"),
]
CHOSEN_FILLED = _rule(_filled, "chosen is empty")
# An empty answer may be rejected: it is the end of the turn alone, and a policy must be able to unlearn it.
BOTH = {"chosen": pa.Column(str, CHOSEN_FILLED), "rejected": pa.Column(str)}
EITHER = {"chosen": pa.Column(str, CHOSEN_FILLED, nullable=True), "rejected": pa.Column(str, nullable=True)}
ONE_AT_LEAST = _rule(
    lambda flat: flat["chosen"].notna() | flat["rejected"].notna(), "neither chosen nor rejected is text"
)
SCHEMAS = {
    "pairs": pa.DataFrameSchema(VALUES | BOTH, checks=RULES),
    "responses": pa.DataFrameSchema(VALUES | EITHER, checks=[*RULES, ONE_AT_LEAST]),
}


def messages_of(prompt: Any) -> Messages | None:
    """Return the chat messages of a pair's `prompt` cell; None if it is not a list of chat messages."""
    try:
        messages = json.loads(prompt)
    except (TypeError, ValueError):
        return None
    if not isinstance(messages, list) or not messages:
        return None
    valid = all(
        isinstance(item, dict) and item.get("role") in ROLES and isinstance(item.get("content"), str)
        for item in messages
    )
    return messages if valid else None


def schema_reasons(pairs: pd.DataFrame, *, takes: Takes) -> dict[int, set[str]]:
    """Return why rows fail, by position in the table; a row that passes is absent.

    Of several equal pairs the first passes. Of two pairs that contradict each other, neither passes.

    Args:
        pairs: The table.
        takes: Whether rows must be pairs or may be single responses.
    """
    flat = _flat_view(pairs)
    reasons: defaultdict[int, set[str]] = defaultdict(set)
    try:
        SCHEMAS[takes].validate(flat, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        for column, check, row in zip(cases["column"], cases["check"], cases["index"], strict=True):
            reasons[int(row)].add(NULL_REASONS[column] if check == "not_nullable" else check)
    return dict(reasons)


def _flat_view(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one plain value per cell, in the columns and types that the schema checks."""
    conversations = [messages_of(prompt) for prompt in pairs["prompt"]]
    contents = [content_key(messages) if messages else None for messages in conversations]
    chosen, rejected = (
        [text if isinstance(text, str) else None for text in pairs[name]] for name in ("chosen", "rejected")
    )
    keys = [_keys(*row) for row in zip(contents, chosen, rejected, strict=True)]
    columns = {
        "prompt_id": pairs["prompt_id"].tolist(),
        "content_id": [prompt_id(messages) if messages else None for messages in conversations],
        "last_role": [messages[-1]["role"] if messages else None for messages in conversations],
        "last_text": [messages[-1]["content"] if messages else None for messages in conversations],
        "chosen": chosen,
        "rejected": rejected,
        "tag": [tag if isinstance(tag, str) else None for tag in pairs["tag"]],
        "pair": [pair for pair, _ in keys],
        "swapped": [swapped for _, swapped in keys],
    }
    flat = pd.DataFrame({name: pd.Series(values, dtype="str") for name, values in columns.items()})
    for name in ("p", "margin"):
        flat[name] = pd.to_numeric(pairs[name], errors="coerce").astype(float).to_numpy()
    return flat


def _keys(content: str | None, chosen: str | None, rejected: str | None) -> tuple[str | None, str | None]:
    """Return identities of the pair (or single response) and of its opposite.

    Both are None if the prompt or both answers are missing, or if the answers are equal.
    """
    if content is None or chosen is rejected is None:
        return None, None
    preferred, other = (None if text is None else text.strip() for text in (chosen, rejected))
    return (
        (None, None)
        if preferred == other
        else (json.dumps([content, preferred, other]), json.dumps([content, other, preferred]))
    )
