"""What a chat endpoint is asked, and what came of it. Knows no network."""

from typing import Any, NamedTuple

from components.tokens import Messages


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


class Usage(NamedTuple):
    """What the calls of a stage came to, over all its starts."""

    calls: int
    """Calls that were answered, or that may have been charged though no answer came."""
    unmeasured: int
    """Those among them of which the endpoint did not say how many tokens they took."""
    input_tokens: int
    """Prompt tokens of the measured calls."""
    output_tokens: int
    """Answer tokens of the measured calls."""
    cost: float | None
    """Cost of the measured calls; None when a price is not known, or when no call was measured."""
