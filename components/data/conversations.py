"""Reads a conversation from a user's row: text, a transcript, chat messages, and the columns that belong to it.

Knows no split of prompts and no pair.
"""

import functools
import json
import logging
import re
from collections.abc import Collection
from typing import Any

from components.data.messages import Message, Messages, without_tools
from components.data.rows import Row, Rows
from components.data.sharegpt import from_sharegpt
from components.data.transcripts import is_transcript, parse_transcript

log = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant", "tool")
ASKING = ("user", "tool")
"""Roles of the message that an answer follows: the user's, or the result of a tool."""
CONTEXT = ("system", "tools")
"""Columns that belong to the prompt: a system message, and tool definitions as chat templates take them."""
IGNORED = (
    *("system_prompt", "instruction", "input", "query", "question", "context", "history", "documents", "developer"),
    *("conversations", "functions", "images", "image", "videos", "video", "audios", "audio", "chat_template_kwargs"),
)
"""Columns of published data sets that are not read, but change what the answers answer."""
PYTHON_MESSAGES = re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:")
"""Start of chat messages that Python printed, as a CSV file or `str()` leaves them."""

RENDERED = re.compile(r"\s*(<\|(im_start|begin_of_text|start_header_id|user|system)\|>|<start_of_turn>|<s>|\[INST\])")
"""Start of a prompt that some chat template has written already."""


def conversation(value: Any, place: str) -> Messages:
    """Read a prompt from a cell, as `read_messages` does; its last message is the user's or a tool's.

    Args:
        value: The cell.
        place: Name of the row, for errors.

    Raises:
        ValueError: The cell is none of them, or the prompt is empty.
    """
    messages = read_messages(value, place)
    if not messages or not any(message["content"].strip() for message in messages):
        raise ValueError(f"{place}: the prompt is empty: fill it in or remove the row")
    last = messages[-1]
    if last["role"] not in ASKING:
        raise ValueError(f"{place}: the prompt ends with a message of the {last['role']}: end it with a user message")
    if not last["content"].strip():
        raise ValueError(f"{place}: the prompt's last message is empty: fill it in or remove the row")
    return messages


def read_messages(value: Any, place: str) -> Messages:
    """Read messages from a cell: chat messages, their JSON text, an HH transcript, or text as one user message.

    A transcript that is cut for completion loses its open, empty answer.

    Raises:
        ValueError: The cell is none of them.
    """
    if not isinstance(value, str):
        return chat_messages(value, place)
    items = encoded_messages(value, place)
    if items is not None:
        return chat_messages(items, place)
    if not is_transcript(value):
        return [{"role": "user", "content": value}]
    turns = parse_transcript(value, place)
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def encoded_messages(text: str, place: str) -> list[dict[str, Any]] | None:
    """Return the list of chat messages, not checked yet, that a text holds as JSON; None if it is any other text.

    Raises:
        ValueError: The text holds them in Python's form.
    """
    if not text.lstrip().startswith("["):
        return None
    if PYTHON_MESSAGES.match(text):
        raise ValueError(f"{place}: the text holds chat messages in Python's form: write them as a list or as JSON")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    return value if is_list and all({"role", "from"} & item.keys() for item in value) else None


def chat_messages(value: Any, place: str) -> Messages:
    """Read a list of chat messages, each with a known role and text content, or of ShareGPT's `from` and `value`.

    Tool calls are kept, and the tools of the first message, as our own tables hold them; keys that neither a role nor
    a tool call needs are dropped.

    Raises:
        ValueError: The value is not such a list.
    """
    if not isinstance(value, list):
        kind = "null" if value is None else type(value).__name__
        raise ValueError(f"{place}: expected text or a list of chat messages, but got {kind}")
    messages = [_plain(item) or _message(item, f"{place}: message {number}") for number, item in enumerate(value, 1)]
    tools = value[0].get("tools") if value else None
    if tools:
        messages[0]["tools"] = _checked_tools(tools, f"{place}: message 1: tools")
    return messages


def with_context(messages: Messages, row: Row) -> Messages:
    """Return a prompt with the system message and the tools of its row's columns.

    Raises:
        ValueError: A column is malformed, or the prompt has another system message; names the row.
    """
    system, tools = row.values.get("system"), _tools(row)
    plain, own_tools = without_tools(messages)
    if tools and own_tools and tools != own_tools:
        raise ValueError(
            f"{row.place}: the column tools differs from the tools of the prompt's first message: remove one of them"
        )
    if system is not None and not isinstance(system, str):
        raise ValueError(f"{row.place}: system is {system!r}, but must be text")
    if system is not None and system.strip():
        own = next((message["content"] for message in plain if message["role"] == "system"), None)
        if own is not None and own.strip() != system.strip():
            raise ValueError(
                f"{row.place}: the column system differs from the prompt's system message: make them agree, "
                "or remove one"
            )
        if own is None:
            plain = [{"role": "system", "content": system}, *plain]
    known = tools or own_tools
    return [{**plain[0], "tools": known}, *plain[1:]] if known else plain


def warn_of_doubts(read: Rows, *, prompt: str, used: Collection[str]) -> None:
    """Log what may be read otherwise than it is meant, once per source.

    One line names the columns that matter to the meaning but are not read; one counts the prompts that are written in a
    chat template already.

    Args:
        read: The rows.
        prompt: Name of the column that holds the prompt.
        used: Names of all columns that are read.
    """
    ignored = tuple(name for name in read.columns if name in IGNORED and name not in used)
    cells = [row.values.get(prompt) for row in read.rows]
    rendered = [place for place, cell in enumerate(cells) if isinstance(cell, str) and RENDERED.match(cell)]
    _warn(read.source, ignored, len(rendered), read.rows[rendered[0]].place if rendered else "")


@functools.cache
def _warn(source: str, ignored: tuple[str, ...], num_rendered: int, first_rendered: str) -> None:
    if ignored:
        log.warning(
            "%s: ignoring the columns %s: if the answers depend on them, write them into the prompt",
            source,
            ", ".join(ignored),
        )
    if num_rendered:
        log.warning(
            "%s: %d prompts begin as if a chat template had written them (%s), and the model's template is written "
            "around them once more: use chat messages",
            source,
            num_rendered,
            first_rendered,
        )


def _plain(item: Any) -> Message | None:
    """Return a message of nothing but role and text, as nearly all are, in a fraction of the time; else None."""
    if not isinstance(item, dict) or len(item) != 2:
        return None
    role, content = item.get("role"), item.get("content")
    return {"role": role, "content": content} if isinstance(content, str) and role in ROLES else None


def _message(item: Any, place: str) -> Message:
    if isinstance(item, dict) and "role" not in item and isinstance(item.get("from"), str):
        item = from_sharegpt(item, place)
    calls = item.get("tool_calls") if isinstance(item, dict) else None
    content = _content(item.get("content"), place) if isinstance(item, dict) else None
    content = "" if calls and content is None else content
    if not isinstance(content, str):
        raise ValueError(f'{place} is not of the form {{"role": ..., "content": text}}')
    role = item.get("role")
    if role not in ROLES:
        raise ValueError(f"{place} has role {role!r}: use one of {', '.join(ROLES)}")
    if item.get("function_call"):
        raise ValueError(f"{place} has a function_call: write it as tool_calls")
    message: Message = {"role": role, "content": content}
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise ValueError(f"{place} has tool_calls, which must be a list in a message of the assistant")
        message["tool_calls"] = [_call(call, place) for call in calls]
    if role == "tool":
        message |= {key: item[key] for key in ("tool_call_id", "name") if isinstance(item.get(key), str)}
    return message


def _content(content: Any, place: str) -> Any:
    """Return a message's content; one in parts is the text of its parts, as chat templates write them."""
    if not isinstance(content, list) or not all(isinstance(part, dict) and "type" in part for part in content):
        return content
    other = next((part for part in content if part["type"] != "text" or not isinstance(part.get("text"), str)), None)
    if other is not None:
        raise ValueError(f"{place} has a part of type {other['type']!r}, but only text can be read: leave the row out")
    return "".join(part["text"] for part in content)


def _call(call: Any, place: str) -> dict[str, Any]:
    """Return a tool call in the form of chat templates, whose arguments are an object and not its JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f'{place} has a tool call that is not of the form {{"function": {{"name": ...}}}}')
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise ValueError(f"{place} has a tool call whose arguments are not valid JSON") from None
    name = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**name, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(row: Row) -> list[dict[str, Any]] | None:
    tools = row.values.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            raise ValueError(f"{row.place}: tools is not valid JSON") from None
    return _checked_tools(tools, f"{row.place}: tools") if tools else None


def _checked_tools(tools: Any, place: str) -> list[dict[str, Any]]:
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"{place} must be a list of tool definitions (objects), or its JSON text")
    return tools
