"""ShareGPT's messages, `{"from": ..., "value": ...}`, beside chat messages. Knows no row.

The names are those of the ShareGPT collection and of LLaMA-Factory's form of it, where `function_call` holds a call as
JSON text and `observation` its result.
"""

import json
from typing import Any

from components.data.messages import Message, Messages

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "observation": "tool",
}
"""Chat roles of senders that have another name; those that have the same one are not listed."""
SENDERS = {"user": "human", "assistant": "gpt", "tool": "observation"}
CALL = "function_call"


def from_sharegpt(item: dict[str, Any], place: str) -> dict[str, Any]:
    """Return a message with `from` and `value` as a chat message, not checked yet.

    Raises:
        ValueError: A function call is not JSON text of one call or of a list of them.
    """
    sender, value = item["from"], item.get("value")
    if sender != CALL:
        return {"role": ROLES.get(sender, sender), "content": value}
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError(
            f'{place} has a function_call that is not JSON such as {{"name": ..., "arguments": {{}}}}'
        ) from None
    return {"role": "assistant", "content": "", "tool_calls": calls if isinstance(calls, list) else [calls]}


def to_sharegpt(messages: Messages) -> list[dict[str, str]]:
    """Return chat messages as ShareGPT's; the ids of tool calls, and a text beside a call, have no place there."""
    return [_message(message) for message in messages]


def _message(message: Message) -> dict[str, str]:
    calls = [call["function"] for call in message.get("tool_calls", [])]
    if calls:
        return {"from": CALL, "value": json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False)}
    return {"from": SENDERS.get(message["role"], message["role"]), "value": message["content"]}
