"""Counts what messages hold that no form reads, so that a conversion can name it."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from components.data.conversations import encoded_messages
from components.data.rows import Rows

READ = frozenset({"role", "content", "from", "value", "tool_calls"})
OF_TOOL = frozenset({"tool_call_id", "name"})


def unread_keys(read: Rows, columns: Collection[str]) -> dict[str, int]:
    """Return the number of messages by key that is not read, such as `weight` or a user's `name`.

    Args:
        read: The rows.
        columns: Names of the columns that are read.
    """
    counts: Counter[str] = Counter()
    for row in read.rows:
        for name in columns:
            for message in _messages(_decoded(row.values.get(name))):
                keys = READ | (OF_TOOL if message.get("role") == "tool" else set())
                counts.update(key for key, value in message.items() if key not in keys and value not in (None, "", []))
    return dict(counts)


def _decoded(value: Any) -> Any:
    """Return what a cell holds: text only counts if it is the JSON text of messages."""
    if not isinstance(value, str):
        return value
    try:
        return encoded_messages(value, "")
    except ValueError:  # text in Python's form, which a form of plain text takes as it is
        return None


def _messages(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the messages within a cell, at any depth."""
    if isinstance(value, dict) and ("role" in value or "from" in value):
        yield value
    elif isinstance(value, list) and value and isinstance(value[0], dict) and "tools" in value[0]:
        yield from _messages([{key: item for key, item in value[0].items() if key != "tools"}, *value[1:]])
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _messages(item)
