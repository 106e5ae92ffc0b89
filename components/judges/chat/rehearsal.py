"""Count what would be asked of chat endpoints, without a request.

Later questions may quote earlier answers, so a rehearsal answers each question in its form, with texts as long as the
endpoint's limit: what it counts is at least what a round asks. The answers say nothing and must be thrown away.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.artifacts import digest
from components.config import EndpointConfig
from components.judges.chat.form import Question, Reply, messages_with_form
from components.judges.chat.ledger import Tokens, cost_of

BYTES_PER_TOKEN = 3
"""Lower than in most texts, so that an estimate of a request's tokens is rather too high."""


@dataclass
class Asked:
    """What would be asked of one endpoint."""

    endpoint: EndpointConfig
    input_tokens: list[int] = field(default_factory=list)
    """One entry per question: the most that its messages have."""

    @property
    def tokens(self) -> Tokens:
        """The most tokens of all questions, and of their answers."""
        return Tokens(sum(self.input_tokens), len(self.input_tokens) * self.endpoint.max_tokens)

    @property
    def cost(self) -> float | None:
        """The most that they cost if every answer is valid; None if it is not known."""
        return self._cost(self.tokens)

    @property
    def cost_with_repairs(self) -> float | None:
        """The most that they cost if no answer is valid: each is asked once more, with the invalid answer quoted."""
        sent, answered = self.tokens
        return self._cost(Tokens(2 * sent + answered, 2 * answered))

    def _cost(self, tokens: Tokens) -> float | None:
        """Return the price of the tokens; None if a price is not set, or the request leaves out the answer's limit."""
        return None if "max_tokens" in self.endpoint.request_fields else cost_of(self.endpoint, tokens)


class Rehearsal:
    """The questions of a block, by endpoint."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._known: set[str] = set()

    @property
    def asked(self) -> list[Asked]:
        """What would be asked of each endpoint, in the order of its first question."""
        return list(self._asked.values())

    def answer(self, endpoint: EndpointConfig, questions: Sequence[Question]) -> list[Reply]:
        """Count the questions, equal ones once, and return a reply of the asked form to each."""
        own = self._asked.setdefault(digest([endpoint.url, endpoint.model]), Asked(endpoint))
        for question in questions:
            messages = messages_with_form(question)
            key = digest([endpoint.url, endpoint.model, messages, question.repeat])
            if key not in self._known:
                self._known.add(key)
                own.input_tokens.append(tokens_at_most(messages))
        filler = "x" * (endpoint.max_tokens * BYTES_PER_TOKEN)
        return [Reply(_example(question.schema, filler) or {"text": filler}, "", "") for question in questions]


_running: list[Rehearsal] = []


@contextlib.contextmanager
def rehearsing() -> Iterator[Rehearsal]:
    """Send nothing to a chat endpoint within the block, and count what would be sent."""
    rehearsal = Rehearsal()
    _running.append(rehearsal)
    try:
        yield rehearsal
    finally:
        _running.remove(rehearsal)


def running_rehearsal() -> Rehearsal | None:
    """Return the innermost rehearsal; None outside of one."""
    return _running[-1] if _running else None


def tokens_at_most(messages: Sequence[dict[str, Any]]) -> int:
    """Return a number of tokens that the messages hardly exceed, in any tokenizer."""
    return sum(len(str(message["content"]).encode()) for message in messages) // BYTES_PER_TOKEN


def _example(schema: dict[str, Any], filler: str) -> Any:
    """Return a value of the form of a judge's question: objects of texts, choices and truth values."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: _example(form, filler) for name, form in schema["properties"].items()}
    examples = {"string": filler, "boolean": False}
    return examples[schema["type"]] if schema else {}
