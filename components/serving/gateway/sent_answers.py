"""What the gateway sent lately, by the id of the completion, so that nobody puts words into the model's mouth.

In memory and as hashes only: of a user who does not agree, nothing is kept.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.feedback.store import Origin

MOST_ANSWERS = 50_000
"""Completions that are remembered; the oldest is forgotten first."""
MOST_CHOICES = 128
"""Answers of a completion that are remembered."""
FREE = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "n", "seed", "user", "metadata", "store"),
        *("temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens"),
        *("frequency_penalty", "presence_penalty", "repetition_penalty", "logprobs", "top_logprobs"),
    }
)
"""Fields of a request with which the words are still the model's.

Others, such as a choice of answers, a grammar, biases of tokens or an end of the client's, may dictate them.
"""


def has_own_words(request: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
    """Return whether the answer to a request is the model's own, by the fields that are set.

    Args:
        request: The body of a chat request.
        usual: Fields that may be set to just these values too.
    """
    return all(
        name in FREE or value is None or (name in usual and usual[name] == value) for name, value in request.items()
    )


@dataclass
class _Sent:
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)
    """By the hashes of the messages and of each answer, where it is from. Engines let clients name their completions,
    so that two conversations may have the same one."""


class SentAnswers:
    """Hashes of answers that were sent. Safe in threads."""

    def __init__(self, most: int = MOST_ANSWERS) -> None:
        self._most = most
        self._sent: OrderedDict[str, _Sent] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, completion_id: str, asked: str, answer: str, origin: Origin) -> None:
        """Remember an answer before its last part is sent."""
        with self._lock:
            sent = self._sent.setdefault(completion_id, _Sent())
            if len(sent.origins) < MOST_CHOICES:
                sent.origins[asked, _hash(answer)] = origin
            while len(self._sent) > self._most:
                self._sent.popitem(last=False)

    def origin(self, completion_id: str | None, messages: Sequence[Mapping[str, Any]], answer: str) -> Origin | None:
        """Return where an answer is from; None if it is not what was sent in answer to these messages."""
        with self._lock:
            sent = self._sent.get(completion_id or "")
        asked = hash_of_messages(messages)
        return None if sent is None or asked is None else sent.origins.get((asked, _hash(answer)))


def hash_of_messages(messages: Any) -> str | None:
    """Return a hash of a conversation of texts; None if it is not one."""
    plain = plain_messages(messages)
    return None if plain is None else _hash(json.dumps(plain, ensure_ascii=False))


def plain_messages(messages: Any) -> list[list[str]] | None:
    """Return roles and texts of a conversation as clients may send it; None if it has anything but texts."""
    if not isinstance(messages, list | tuple) or not messages:
        return None
    plain = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            return None
        plain.append([str(message.get("role")), content])
    return plain


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Recorder:
    """Puts the answers of one completion together as they pass, and remembers them."""

    def __init__(self, sent: SentAnswers, messages: Any, *, round: int, model_digest: str, arm: str | None) -> None:
        self._sent, self._asked = sent, hash_of_messages(messages)
        self._from = (round, model_digest, arm)
        self._rest = b""
        self._texts: dict[int, list[str]] = {}

    def whole(self, body: bytes) -> None:
        """Read a completion that is sent at once."""
        completion = _object(body)
        for choice in completion.get("choices") or []:
            message = choice.get("message") or {}
            self._remember(completion.get("id"), message.get("content"), choice.get("finish_reason"))

    def part(self, chunk: bytes) -> None:
        """Read a part of a stream of events, which may end anywhere."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line.removeprefix(b"data:").strip())

    def _event(self, data: bytes) -> None:
        event = _object(data)
        for choice in event.get("choices") or []:
            texts = self._texts.setdefault(int(choice.get("index") or 0), [])
            texts.append((choice.get("delta") or {}).get("content") or "")
            if choice.get("finish_reason"):
                self._remember(event.get("id"), "".join(texts), choice["finish_reason"])

    def _remember(self, completion_id: Any, answer: Any, finish_reason: Any) -> None:
        if self._asked is not None and isinstance(completion_id, str) and isinstance(answer, str):
            round, model_digest, arm = self._from
            origin = Origin(round, model_digest, arm, finish_reason if isinstance(finish_reason, str) else None)
            self._sent.remember(completion_id, self._asked, answer, origin)


def _object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one for anything else, such as the mark at the end of a stream."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
