"""Reads a preference data set in the forms that TRL, UltraFeedback and HH users have. Knows no judge and no stage.

A row has `chosen` and `rejected` with an optional `prompt`: plain text, chat messages with or without the prompt, or HH
transcripts. Optional columns: `system`, `tools`, `p`, `margin` (or the two scores), `tag`. Or it has a single response,
as KTO takes it: `completion` and `label` (true if it is desirable).
"""

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from components.data.conversations import (
    CONTEXT,
    chat_messages,
    encoded_messages,
    read_messages,
    warn_of_ignored,
    with_context,
)
from components.data.messages import Messages, format_messages
from components.data.rows import Row, Rows, read_rows
from components.data.transcripts import is_transcript, parse_transcript

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
)
"""Columns of the two scores whose difference is the margin, as published data sets name them."""
THOUGHTS = ("reasoning_content", "thinking", "thought")
"""Keys of an assistant's message that hold a thought apart from the answer."""
COLUMNS = (
    "prompt",
    "chosen",
    "rejected",
    "completion",
    "label",
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
            total.update(json.dumps(content).encode() + b"\n")
        return total.hexdigest()


def load_seed_pairs(source: str, *, split: str) -> SeedPairs:
    """Load a preference data set.

    Args:
        source: A source that `rows.read_rows` reads.
        split: Split of a data set that has splits.

    Raises:
        ValueError: The source cannot be read, lacks a column, has no usable pair, or a row is malformed; names the row.
    """
    read = read_rows(source, split=split, columns=COLUMNS)
    warn_of_ignored(read, COLUMNS)
    loaded = [_pair(row, read) for row in read.rows]
    pairs = [pair for pair in loaded if isinstance(pair, SeedPair)]
    earlier = tuple(row.place for row, pair in zip(read.rows, loaded, strict=True) if pair is None)
    if not pairs:
        raise ValueError(
            f"{source} has no pair of answers to the same prompt: "
            "chosen and rejected must agree in all messages but the last"
        )
    return SeedPairs(pairs, earlier)


def _pair(row: Row, read: Rows) -> SeedPair | None:
    if row.values.get("completion") is not None:
        return _response(row)
    for column in ("chosen", "rejected"):
        if row.values.get(column) is None:
            raise ValueError(
                f"{row.place} has no {column}: a pair needs the columns chosen and rejected "
                f"(the columns are {', '.join(read.columns)})"
            )
    prompt = row.values.get("prompt")
    before_chosen, chosen = _answer(row.values["chosen"], prompt, f"{row.place} chosen")
    before_rejected, rejected = _answer(row.values["rejected"], prompt, f"{row.place} rejected")
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
    before, answer = _answer(row.values["completion"], row.values.get("prompt"), f"{row.place} completion")
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


def _answer(value: Any, prompt: Any, place: str) -> tuple[Messages, str]:
    """Return the messages before the last answer, and the answer; `prompt` is the column prompt's cell, or None."""
    own_prompt = None if prompt is None else read_messages(prompt, f"{place}'s prompt")
    turns = _turns(value, prompt, place)
    if turns is None:
        return own_prompt or [], value
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError(f"{place}: the last message is not the assistant's: end with the answer")
    *before, answer = turns
    if "tool_calls" in answer:
        raise ValueError(
            f"{place}: the answer has tool_calls, but only text can be trained on: leave the row out, or write the "
            "calls into the content as the model's chat template does"
        )
    return _joined(own_prompt, before, place), answer["content"]


def _turns(value: Any, prompt: Any, place: str) -> Messages | None:
    """Return the messages of an answer's cell, which may be one message; None if it is the answer's text."""
    if isinstance(value, str):
        items = encoded_messages(value, place)
        whole = prompt is None or (is_transcript(value) and isinstance(prompt, str) and is_transcript(prompt))
        if items is None:
            return parse_transcript(value, place) if whole else None
    else:
        items = [value] if isinstance(value, dict) else value
    turns = chat_messages(items, place)
    thoughts = [key for key in THOUGHTS if turns and items[-1].get(key)]
    if thoughts:
        raise ValueError(f"{place}: the answer has {thoughts[0]}, which would be left out: write it into the content")
    return turns


def _joined(own_prompt: Messages | None, before: Messages, place: str) -> Messages:
    """Return the prompt from its column or from the messages before the answer; if there are both, they must agree."""
    if not before or not own_prompt:
        prompt = before or own_prompt
        if not prompt:
            raise ValueError(f"{place}: there is no prompt: add a column prompt, or the messages before the answer")
        return prompt
    ours, theirs = _stripped(own_prompt), _stripped(before)
    if len(ours) <= len(theirs) and theirs[-len(ours) :] == ours:
        return before
    if theirs == ours[-len(theirs) :]:
        return own_prompt
    raise ValueError(
        f"{place}: the messages before the answer differ from the column prompt: make them agree, or remove the column"
    )


def _stripped(messages: Messages) -> list[tuple[str, str, Any]]:
    return [(message["role"], message["content"].strip(), message.get("tool_calls")) for message in messages]


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
