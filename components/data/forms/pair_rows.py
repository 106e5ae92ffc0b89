"""Reads rows with `chosen` and `rejected`, or with `completion` and `label`: the forms of TRL, of HH and our own.

Knows no other form. An optional `prompt` is plain text, chat messages or a transcript, and so are the answers, with or
without it. Optional columns: `system`, `tools`, `p`, `margin` (or the two scores), `tag`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components.data.answers import read_answer
from components.data.conversations import CONTEXT, with_context
from components.data.forms.form import Reading, number
from components.data.forms.rated import Choice
from components.data.messages import Messages
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair
from components.data.transcripts import parse_answers

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
"""Columns of the two scores whose difference is the margin, as published data sets name them."""
SCORE_COLUMNS = frozenset(name for names in SCORES for name in names)
ANSWERS = ("prompt", "chosen", "rejected", "completion", "label")
COLUMNS = (*ANSWERS, "p", "margin", "tag", *CONTEXT, *SCORE_COLUMNS)


def read_pair_rows(read: Rows, _: Choice) -> Reading:
    """Return the pairs and single responses of a data set.

    Raises:
        ValueError: A row lacks a column or is malformed; names the row.
    """
    loaded = [read_pair(row, read.columns) for row in read.rows]
    earlier = tuple(row.place for row, pair in zip(read.rows, loaded, strict=True) if pair is None)
    return Reading([pair for pair in loaded if pair is not None], earlier)


def read_pair(row: Row, columns: Sequence[str]) -> SeedPair | None:
    """Return the pair or the single response of a row; None if its two conversations differ before the last answer.

    Args:
        row: The row.
        columns: Names of all columns of its source, for errors.

    Raises:
        ValueError: The row is malformed; names it.
    """
    if row.values.get("completion") is not None:
        if row.values.get("chosen") is not None or row.values.get("rejected") is not None:
            raise ValueError(f"{row.place} has completion beside chosen or rejected: remove the one that is not meant")
        return _response(row)
    for column in ("chosen", "rejected"):
        if row.values.get(column) is None:
            raise ValueError(
                f"{row.place} has no {column}: a pair needs the columns chosen and rejected "
                f"(the columns are {', '.join(columns)})"
            )
    answers = _transcripts(row.values) or _answers(row)
    if answers is None:
        return None
    before, chosen, rejected = answers
    p = number(row, "p", row.values.get("p"))
    return SeedPair(with_context(before, row), chosen, rejected, p, _margin(row), row_tag(row), row.place)


def _transcripts(values: Mapping[str, Any]) -> tuple[Messages, str, str] | None:
    """Return the prompt and the answers of two transcripts; None for any other row."""
    chosen, rejected = values["chosen"], values["rejected"]
    is_text = isinstance(chosen, str) and isinstance(rejected, str)
    return parse_answers(chosen, rejected) if is_text and values.get("prompt") is None else None


def _answers(row: Row) -> tuple[Messages, str, str] | None:
    """Return the prompt and the answers of a row; None if the two conversations differ before the last answer."""
    prompt = row.values.get("prompt")
    before_chosen, chosen = read_answer(row.values["chosen"], prompt, f"{row.place} chosen")
    before_rejected, rejected = read_answer(row.values["rejected"], prompt, f"{row.place} rejected")
    return (before_chosen, chosen, rejected) if before_chosen == before_rejected else None


def _response(row: Row) -> SeedPair:
    """Return a single response as `chosen` if its label is true, and as `rejected` if it is false."""
    before, answer = read_answer(row.values["completion"], row.values.get("prompt"), f"{row.place} completion")
    label = row_label(row)
    return SeedPair(
        with_context(before, row),
        answer if label else None,
        None if label else answer,
        number(row, "p", row.values.get("p")),
        number(row, "margin", row.values.get("margin")),
        row_tag(row),
        row.place,
    )


def row_label(row: Row) -> bool:
    """Return whether the single response of a row is desirable.

    Raises:
        ValueError: The column label is not a truth value; names the row.
    """
    label = row.values.get("label")
    if not isinstance(label, bool):
        raise ValueError(
            f"{row.place}: label is {label!r}: write true if the completion is desirable, and false if it is not"
        )
    return label


def row_tag(row: Row) -> str | None:
    """Return the tag of a row; None without one.

    Raises:
        ValueError: It is not text; names the row.
    """
    tag = row.values.get("tag")
    if tag is not None and not isinstance(tag, str):
        raise ValueError(f"{row.place}: tag is {tag!r}, but must be text")
    return tag


def _margin(row: Row) -> float | None:
    margin = number(row, "margin", row.values.get("margin"))
    if margin is not None or SCORE_COLUMNS.isdisjoint(row.values):
        return margin
    for better, worse in SCORES:
        high, low = (number(row, name, row.values.get(name)) for name in (better, worse))
        if high is not None and low is not None:
            return high - low
    return None
