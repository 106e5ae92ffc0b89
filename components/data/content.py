"""What makes two prompts the same, and which training prompts give a held-out one away. Pure."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from components.config import HeldOutBy
from components.data.messages import Message, Messages

MIN_BEGINNING_CHARACTERS = 20
"""Shortest beginning of a conversation that gives another one away: many begin with a greeting."""
SAME = "prompt is held out"
SAME_CONVERSATION = "prompt begins or continues a held-out conversation"


class HeldOutContents:
    """The contents of held-out prompts.

    Args:
        prompts: The held-out prompts as chat messages.
        by: What else than the same content gives a held-out prompt away.
    """

    def __init__(self, prompts: Iterable[Messages], by: HeldOutBy) -> None:
        prompts = list(prompts)
        self.by = by
        self.keys = frozenset(content_key(messages) for messages in prompts)
        self.beginnings = frozenset(
            content_key(beginning) for messages in prompts if by == "conversation" for beginning in beginnings(messages)
        )

    def reason(self, messages: Messages) -> str | None:
        """Return why a prompt must not be trained on; None if it may."""
        if content_key(messages) in self.keys:
            return SAME
        return SAME_CONVERSATION if self.shares_conversation(messages) else None

    def shares_conversation(self, messages: Messages) -> bool:
        """Return whether a prompt begins or continues a held-out conversation."""
        if self.by == "content":
            return False
        if self.beginnings and is_telling(messages) and content_key(messages) in self.beginnings:
            return True
        return any(content_key(beginning) in self.keys for beginning in beginnings(messages))


def beginnings(messages: Messages) -> Iterator[Messages]:
    """Yield the shorter conversations that begin a conversation, end with a message of the user, and tell something."""
    for end in range(1, len(messages)):
        if messages[end - 1]["role"] == "user" and is_telling(messages[:end]):
            yield messages[:end]


def is_telling(messages: Messages) -> bool:
    """Return whether a conversation is long enough that another one does not begin in the same way by chance."""
    said = (len(message["content"]) for message in messages if message["role"] != "system")
    return sum(said) >= MIN_BEGINNING_CHARACTERS


def content_key(messages: Messages) -> str:
    """Return a key that is equal for conversations of the same content.

    White space, letter case, Unicode form and the ids of tool calls do not count.
    """
    plain = [(message["role"], normal_text(message["content"]), *_tool_content(message)) for message in messages]
    return _sha256(json.dumps(plain))


def normal_text(text: str) -> str:
    """Return a text without differences of white space, letter case and Unicode form."""
    if text.isascii():  # the same, in a fraction of the time
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _tool_content(message: Message) -> list[Any]:
    """Return what a message says of tools, without the ids that only link a call to its result."""
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return [value for value in (calls, message.get("tools")) if value]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
