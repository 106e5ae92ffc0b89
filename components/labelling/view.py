"""What an item looks like to an annotator: its conversation and its two answers, as safe HTML and as raw text.

Shows nothing that tells which answer is the first, or which item is a gold question.
"""

import json
from dataclasses import dataclass
from typing import Any

from components.data.messages import Message, called_name
from components.labelling.assignment import Assigned
from components.runtime.printable import printable
from components.web.safe_html import safe_html

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool", "developer": "Developer"}


@dataclass(frozen=True)
class Text:
    """A text of anybody, in both forms that the page switches between."""

    html: str
    """Safe HTML, see `safe_html`."""
    raw: str
    """Printable, to be escaped."""


@dataclass(frozen=True)
class Turn:
    """A message of the conversation."""

    speaker: str
    text: Text | None
    """None if the message holds tool calls alone."""
    calls: tuple[str, ...]
    """Tool calls, one text each, to be escaped."""


@dataclass(frozen=True)
class ItemView:
    """What the template of an item shows."""

    item_id: str
    rubric: str
    """Safe HTML."""
    turns: tuple[Turn, ...]
    left: Text
    right: Text


def view_of(assigned: Assigned) -> ItemView:
    """Return an item as its annotator sees it."""
    item, task = assigned.item, assigned.plan.task
    texts = (item.first, item.second) if assigned.shown_left == "first" else (item.second, item.first)
    left, right = map(_text, texts)
    return ItemView(
        item_id=item.item_id,
        rubric=safe_html(task.rubric),
        turns=tuple(_turn(message, item.messages) for message in item.messages),
        left=left,
        right=right,
    )


def _turn(message: Message, messages: list[Message]) -> Turn:
    role = str(message["role"])
    speaker = SPEAKERS.get(role, printable(role))
    name = called_name(messages, message) if role == "tool" else None
    content = message.get("content")
    calls = [call.get("function", call) for call in message.get("tool_calls", ())]
    if message.get("tools"):
        calls.append({"available tools": message["tools"]})
    return Turn(
        speaker=f"{speaker} {printable(name)}" if name else speaker,
        text=_text(content if isinstance(content, str) else _json(content)) if content else None,
        calls=tuple(_json(call) for call in calls),
    )


def _text(text: str) -> Text:
    return Text(html=safe_html(text), raw=printable(text.replace("\r\n", "\n").replace("\r", "\n")))


def _json(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False, indent=1))
