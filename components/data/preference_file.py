"""Reads a preference data set in the forms that TRL, UltraFeedback and HH users have. Knows no judge and no stage.

A row has `chosen` and `rejected` with an optional `prompt`: plain text, chat messages with or without the prompt, or HH
transcripts. Optional columns: `system`, `tools`, `p`, `margin` (or the two scores), `tag`. Or it has a single response,
as KTO takes it: `completion` and `label` (true if it is desirable).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from components.data.answers import read_answer
from components.data.columns import format_columns, read_columns
from components.data.conversations import CONTEXT, warn_of_doubts, with_context
from components.data.funnel import counted, step, too_little
from components.data.messages import Messages, format_messages
from components.data.rows import Row, read_rows

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
"""Columns of the two scores whose difference is the margin, as published data sets name them."""
ANSWERS = ("prompt", "chosen", "rejected", "completion", "label")
COLUMNS = (
    *ANSWERS,
    "p",
    "margin",
    "tag",
    *CONTEXT,
    *(name for names in SCORES for name in names),
)


@dataclass(frozen=True)
class SeedPair:
    """A preference pair of a data set.

    A value that its row does not have is None, and so is the other answer of a single response.
    """

    messages: Messages
    chosen: str | None
    rejected: str | None
    p: float | None
    margin: float | None
    tag: str | None
    place: str = field(default="", compare=False)
    """Name of its row, for errors."""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """JSON values of the row's other columns, by name; empty if nothing reads them."""

    @property
    def is_single(self) -> bool:
        """Whether it is a single response."""
        return self.chosen is None or self.rejected is None


@dataclass(frozen=True)
class SeedPairs:
    """The pairs of a data set, and the rows that give none."""

    pairs: list[SeedPair]
    split_earlier: tuple[str, ...]
    """Places of the rows whose two conversations differ before the last answer, so that there is no common prompt."""

    @property
    def digest(self) -> str:
        """sha256 over the pairs in order and the number of rows that give none."""
        total = hashlib.sha256(f"{len(self.split_earlier)}\n".encode())
        for pair in self.pairs:
            content = [format_messages(pair.messages), pair.chosen, pair.rejected, pair.p, pair.margin, pair.tag]
            content += [format_columns(pair.columns)] if pair.columns else []
            total.update(json.dumps(content).encode() + b"\n")
        return total.hexdigest()


def load_seed_pairs(source: str, *, split: str, carries_columns: bool = False, revision: str = "") -> SeedPairs:
    """Load a preference data set.

    Args:
        source: A source that `rows.read_rows` reads.
        split: Split of a data set that has splits.
        carries_columns: Whether the pairs have the other columns of their rows, for a judge that reads them. They are
            all but those of the prompt and the answers.
        revision: Hub revision of a data set of the hub.

    Raises:
        ValueError: The source cannot be read, lacks a column, has no usable pair, or a row is malformed; names the row.
    """
    read = read_rows(source, split=split, columns=None if carries_columns else COLUMNS, revision=revision)
    warn_of_doubts(read, prompt="prompt", used=COLUMNS)
    loaded = [read_pair(row, read.columns) for row in read.rows]
    if carries_columns:
        others = read_columns(source, read.rows, without=(*ANSWERS, *CONTEXT))
        loaded = [pair and replace(pair, columns=columns) for pair, columns in zip(loaded, others, strict=True)]
    pairs = [pair for pair in loaded if isinstance(pair, SeedPair)]
    earlier = tuple(row.place for row, pair in zip(read.rows, loaded, strict=True) if pair is None)
    if not pairs:
        differing = {"chosen and rejected differ before the last answer": len(earlier)}
        raise ValueError(
            too_little(
                f"{source} has no pair of answers to the same prompt",
                [step(len(read.rows), "rows", counted(differing, {}))],
                otherwise="chosen and rejected must agree in all messages but the last",
            )
        )
    return SeedPairs(pairs, earlier)


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
    prompt = row.values.get("prompt")
    before_chosen, chosen = read_answer(row.values["chosen"], prompt, f"{row.place} chosen")
    before_rejected, rejected = read_answer(row.values["rejected"], prompt, f"{row.place} rejected")
    if before_chosen != before_rejected:
        return None
    messages = with_context(before_chosen, row)
    return SeedPair(messages, chosen, rejected, _number(row, "p"), _margin(row), _tag(row), row.place)


def _response(row: Row) -> SeedPair:
    """Return a single response as `chosen` if its label is true, and as `rejected` if it is false."""
    label = row.values.get("label")
    if not isinstance(label, bool):
        raise ValueError(
            f"{row.place}: label is {label!r}: write true if the completion is desirable, and false if it is not"
        )
    before, answer = read_answer(row.values["completion"], row.values.get("prompt"), f"{row.place} completion")
    return SeedPair(
        with_context(before, row),
        answer if label else None,
        None if label else answer,
        _number(row, "p"),
        _number(row, "margin"),
        _tag(row),
        row.place,
    )


def _tag(row: Row) -> str | None:
    tag = row.values.get("tag")
    if tag is not None and not isinstance(tag, str):
        raise ValueError(f"{row.place}: tag is {tag!r}, but must be text")
    return tag


def _margin(row: Row) -> float | None:
    margin = _number(row, "margin")
    if margin is not None:
        return margin
    for better, worse in SCORES:
        high, low = _number(row, better), _number(row, worse)
        if high is not None and low is not None:
            return high - low
    return None


def _number(row: Row, column: str) -> float | None:
    value = row.values.get(column)
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        raise ValueError(f"{row.place}: {column} is an integer of {len(str(value))} digits: write a number") from None
    if math.isnan(number):
        raise ValueError(f"{row.place}: {column} is {value!r}, but must be a number, or left out")
    return number
