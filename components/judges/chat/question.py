"""What a chat endpoint is asked, and what came of it. Knows no network."""

from typing import Any, NamedTuple

from components.data.messages import Messages


class Question(NamedTuple):
    """A conversation that calls for an answer of a given form."""

    messages: Messages
    """What is asked; the form is added to the last message by the client."""
    schema: dict[str, Any]
    """JSON schema that the answer's JSON object must satisfy; {} takes free text."""
    repeat: int = 0
    """1, 2, ...: asks the same question again, past the cached answer."""


class Reply(NamedTuple):
    """An answer that was read."""

    value: dict[str, Any] | None
    """The checked JSON object, or {"text": ...} of a free text; None when there is no valid answer."""
    detail: str
    """Why there is none, else empty."""
    raw: str
    """What the endpoint said last."""
