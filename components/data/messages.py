"""Chat messages as people write them, and the text that stands for a conversation."""

import json

Messages = list[dict[str, str]]


def parse_messages(text: str) -> Messages:
    """Read the JSON list of chat messages that tables hold."""
    messages = json.loads(text)
    assert isinstance(messages, list), text
    return messages


def format_messages(messages: Messages) -> str:
    """Return chat messages as the JSON text that tables hold; equal messages give equal text."""
    return json.dumps(
        [{"role": message["role"], "content": message["content"]} for message in messages], ensure_ascii=False
    )
