"""Chat messages as people write them, and the texts that stand for a message or a conversation.

A message has `role` and `content`. An assistant's may have `tool_calls`, a tool's `tool_call_id` and `name`; the first
one may have `tools`, the definitions of the tools that the conversation is about.
"""

import json
from typing import Any

Message = dict[str, Any]
Messages = list[Message]

TOOL_KEYS = ("tool_calls", "tool_call_id", "name", "tools")
"""Keys of a message that are kept beside role and content."""


def parse_messages(text: str) -> Messages:
    """Read the JSON list of chat messages that tables hold."""
    messages = json.loads(text)
    assert isinstance(messages, list), text
    return messages


def format_messages(messages: Messages) -> str:
    """Return chat messages as the JSON text that tables hold; equal messages give equal text."""
    return json.dumps(
        [
            {"role": message["role"], "content": message["content"]}
            | {key: message[key] for key in TOOL_KEYS if key in message}
            for message in messages
        ],
        ensure_ascii=False,
    )


def message_text(message: Message) -> str:
    """Return a message's content, followed by its tool calls and tool definitions as JSON."""
    named = {"tool calls": message.get("tool_calls"), "available tools": message.get("tools")}
    blocks = [f"[{name}]\n{json.dumps(value, ensure_ascii=False)}" for name, value in named.items() if value]
    return "\n\n".join([message["content"], *blocks] if message["content"] else blocks)


def called_name(messages: Messages, result: Message) -> str | None:
    """Return the name of the tool whose result a message is: its own, or that of the call with its id; None without."""
    own: str | None = result.get("name")
    calls = {call.get("id"): call for message in messages for call in message.get("tool_calls", [])}
    call = calls.get(result.get("tool_call_id")) if "tool_call_id" in result else None
    return own or (call["function"]["name"] if call else None)


def with_system(messages: Messages, text: str) -> Messages:
    """Return a conversation with a system message in front; as it is if it has its own, or if the text is empty."""
    if not text or any(message["role"] == "system" for message in messages):
        return messages
    plain, tools = without_tools(messages)
    return [{"role": "system", "content": text, **({"tools": tools} if tools else {})}, *plain]


def without_system(messages: Messages, text: str) -> Messages:
    """Return a conversation without its first message if that is a system message of this text."""
    first, *others = messages
    if not text or not others or first["role"] != "system" or first["content"].strip() != text:
        return messages
    return [{**others[0], **({"tools": first["tools"]} if "tools" in first else {})}, *others[1:]]


def without_tools(messages: Messages) -> tuple[Messages, list[dict[str, Any]] | None]:
    """Return the messages as a chat template takes them, and the definitions of the conversation's tools or None."""
    if not messages or "tools" not in messages[0]:
        return messages, None
    first, *others = messages
    return [{key: value for key, value in first.items() if key != "tools"}, *others], first["tools"]
