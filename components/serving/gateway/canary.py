"""Which engine answers a conversation: the champion's, or for a share of the conversations the challenger's. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.serving.gateway.sent_answers import plain_messages

CONVERSATION_HEADER = "x-conversation-id"


@dataclass(frozen=True)
class Canary:
    """A share of the conversations that another model answers."""

    share: float
    """In (0, 1)."""
    round: int
    """Round of the challenger."""
    salt: str
    """Draws other conversations for another challenger; its digest."""

    def takes(self, conversation: str) -> bool:
        """Return whether the challenger answers a conversation: all of it or nothing of it."""
        drawn = hashlib.sha256(f"{self.salt}:{conversation}".encode(errors="surrogatepass")).digest()[:8]
        return int.from_bytes(drawn, "big") / 2**64 < self.share


def conversation_of(headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """Return the name of a request's conversation.

    It is the header `X-Conversation-Id`, else `metadata.conversation_id`. Without either, the conversation is known by
    its beginning up to the first message of the user, which stays the same while it goes on.
    """
    metadata = body.get("metadata")
    named = headers.get(CONVERSATION_HEADER) or (
        metadata.get("conversation_id") if isinstance(metadata, dict) else None
    )
    if named:
        return str(named)
    beginning = []
    for role, text in plain_messages(body.get("messages")) or []:
        beginning.append([role, text])
        if role == "user":
            break
    return json.dumps(beginning, ensure_ascii=False)
