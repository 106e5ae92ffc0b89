"""Define a published form of preference data: how its rows are recognised, read and written, and what it holds.

Knows no form in particular.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from components.data.conversations import read_messages
from components.data.forms.judged import JudgedPair
from components.data.forms.rated import Choice
from components.data.messages import Messages, without_tools
from components.data.rows import Row, Rows
from components.data.seed_pair import TIED, SeedPair

ANNOTATIONS = frozenset({"p", "margin", "tag", "columns"})
"""What says more about a pair, which stays true without it."""
CHAT = frozenset({"pair", "system", "tools", "tool messages", "turns"})
"""Everything that the messages of a pair may have."""


class Reading(NamedTuple):
    """What the rows of a source gave."""

    pairs: list[SeedPair]
    split_earlier: tuple[str, ...] = ()
    """Places of the rows whose conversations differ before the last answer."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """Number of other rows that give no pair, by reason."""


@dataclass(frozen=True)
class Form:
    """A published form of preference data."""

    name: str
    title: str
    """One line for people."""
    holds: frozenset[str]
    """What a pair of this form may have: names that `features` gives."""
    columns: frozenset[str]
    """Columns that the reader reads."""
    matches: Callable[[Rows], bool]
    """Whether rows look like this form."""
    read: Callable[[Rows, Choice], Reading]
    """Raises `ValueError` for a malformed row, which it names."""
    write: Callable[[SeedPair], list[dict[str, Any]]]
    """Gives the rows of a pair that has nothing but what the form holds; a `ValueError` names what it lacks."""
    needs: frozenset[str] = frozenset()
    """What each pair must have; a tie has it."""
    fragile: str = "a text that the form's reader would take for something else"
    """What a text may not have, for errors."""
    read_judged: Callable[[Row], JudgedPair | None] | None = None
    """Gives who judged the two answers of a row, and how; None without a judgement. Raises as `read` does."""
    write_judged: Callable[[JudgedPair], dict[str, Any]] | None = None
    """Gives the row of a pair with each person's judgement; None if the form holds one judgement per pair."""
    not_read: str = ""
    """Values within the columns that are never read, for people."""


def features(pair: SeedPair) -> set[str]:
    """Return what a pair has, by the names in `Form.holds`.

    A certain p says nothing more than the order of the answers.
    """
    roles = [message["role"] for message in pair.messages]
    has = {
        "single": pair.is_single,
        "pair": not pair.is_single,
        "system": "system" in roles,
        "tools": any("tools" in message for message in pair.messages),
        "tool messages": "tool" in roles or any("tool_calls" in message for message in pair.messages),
        "turns": len([role for role in roles if role != "system"]) > 1,
        "tie": pair.is_tie and not pair.is_single,
        "a label against its order": (pair.p is not None and pair.p < TIED) or (pair.margin or 0) < 0,
        "a p outside of 0 to 1": pair.p is not None and not 0 <= pair.p <= 1,
        "an infinite margin": pair.margin is not None and math.isinf(pair.margin),
        "p": pair.p not in (None, 1.0) and not pair.is_tie,
        "margin": pair.margin is not None and not pair.is_tie,
        "tag": pair.tag is not None,
        "columns": bool(pair.columns),
    }
    return {name for name, value in has.items() if value}


def without(pair: SeedPair, names: Collection[str]) -> SeedPair:
    """Return a pair without the annotations of these names."""
    return replace(
        pair,
        p=None if "p" in names else pair.p,
        margin=None if "margin" in names else pair.margin,
        tag=None if "tag" in names else pair.tag,
        columns={} if "columns" in names else pair.columns,
    )


def canonical(pair: SeedPair) -> SeedPair:
    """Return a pair that equals another one if both say the same: a tie in one way, and a certain p left out."""
    if pair.is_tie:
        return replace(pair, p=TIED, margin=0.0)
    return replace(pair, p=None) if pair.p == 1.0 else pair


def nested(row: Row, column: str) -> Any:
    """Return a cell that holds lists or objects, which may stand there as JSON text; None if it is empty.

    Raises:
        ValueError: The text is not JSON; names the row.
    """
    value = row.values.get(column)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise ValueError(f"{row.place}: {column} is text, but not valid JSON: write a list or an object") from None


def number(row: Row, column: str, value: Any) -> float | None:
    """Return a finite or infinite number of a cell; None if it is empty.

    Args:
        row: The row, for errors.
        column: Name of the value, for errors.
        value: The cell.

    Raises:
        ValueError: It is anything else; names the row.
    """
    if value is None:
        return None
    try:
        converted = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        raise ValueError(f"{row.place}: {column} is an integer of {len(str(value))} digits: write a number") from None
    if math.isnan(converted):
        raise ValueError(f"{row.place}: {column} is {value!r}, but must be a number, or left out")
    return converted


def text(row: Row, column: str, value: Any) -> str:
    """Return a cell that must be text.

    Raises:
        ValueError: It is missing or anything else; names the row.
    """
    if not isinstance(value, str):
        what = "missing" if value is None else f"of type {type(value).__name__}"
        raise ValueError(f"{row.place}: {column} is {what}, but must be text")
    return value


def prompt_text(pair: SeedPair) -> str:
    """Return the text of a prompt that is one user message and nothing else."""
    ((text_of_prompt),) = (message["content"] for message in pair.messages)
    assert isinstance(text_of_prompt, str)
    return text_of_prompt


def prompt_cell(messages: Messages) -> str | Messages:
    """Return a prompt as the text that reads back as it, else as chat messages without the tools."""
    plain, tools = without_tools(messages)
    text_of_prompt = plain[0]["content"]
    if tools or plain != [{"role": "user", "content": text_of_prompt}]:
        return plain
    try:
        return text_of_prompt if read_messages(text_of_prompt, "") == plain else plain
    except ValueError:
        return plain
