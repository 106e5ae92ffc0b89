"""The calls that were paid for and their answers, on disk from the moment each arrives. Knows no network.

One JSON line a call in an append-only file, which any file system and a kill at any moment leave readable: a line that is no whole
entry is passed over.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from components.artifacts import digest
from components.config import EndpointConfig
from components.judges.chat.question import Usage

log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """What a call took, as the endpoint counted it."""

    input: int
    output: int


class Answer(NamedTuple):
    """What a call brought."""

    text: str | None
    """The answer's text; None when none came that can be used."""
    finish: str
    """Why the endpoint ended it: `stop`, `length`, ..."""
    tokens: Tokens | None
    """None when the endpoint did not say."""


NOTHING = Answer(None, "", None)
"""What a call brought that the endpoint may have worked on, but of which no answer came."""


class Entry(NamedTuple):
    """A call as it is written down."""

    key: str
    at_most: float
    answer: Answer


NO_USAGE = Usage(0, 0, 0, 0, None)


class Ledger:
    """All calls to one model, of this start and of earlier ones; open within a `with` block."""

    def __init__(self, directory: Path, endpoint: EndpointConfig) -> None:
        self._endpoint = endpoint
        self._path = directory / f"chat-{re.sub(r'[^A-Za-z0-9._-]+', '-', endpoint.model)}-{digest(endpoint.model)[:8]}.jsonl"
        self._answers: dict[str, Answer] = {}
        self._usage, self._unmeasured_cost = NO_USAGE, 0.0
        self._file: int | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        content = self._path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.write(self._file, b"\n")
        self._answers, self._usage, self._unmeasured_cost = {}, NO_USAGE, 0.0
        for entry in _entries(content, self._path):
            self._note(entry)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file is not None
        os.close(self._file)
        self._file = None

    def find(self, key: str) -> Answer | None:
        """The answer to a request, if it was paid for already."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer, *, at_most: float) -> None:
        """Writes a call down; it is on the disk when this returns.

        Args:
            key: Identity of the request.
            answer: What it brought.
            at_most: What it may have cost, should the endpoint not have said what it took.
        """
        assert self._file is not None
        entry = Entry(key, at_most, answer)
        line = json.dumps({"key": key, "at_most": at_most, **answer._asdict()}).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path}: there is no room for an answer")
        os.fsync(self._file)
        self._note(entry)

    @property
    def usage(self) -> Usage:
        """What all calls came to."""
        return self._usage

    @property
    def cost_at_most(self) -> float:
        """What all calls may have cost: those that the endpoint did not measure at the most that they can have taken."""
        return (self._usage.cost or 0.0) + self._unmeasured_cost

    def _note(self, entry: Entry) -> None:
        self._usage = _with_call(self._usage, entry.answer, self._endpoint)
        if entry.answer.tokens is None:
            self._unmeasured_cost += entry.at_most
        if entry.answer.text is not None:
            self._answers[entry.key] = entry.answer


def _with_call(usage: Usage, answer: Answer, endpoint: EndpointConfig) -> Usage:
    calls, unmeasured, into, out, cost = usage
    if answer.tokens is None:
        return Usage(calls + 1, unmeasured + 1, into, out, cost)
    into, out = into + answer.tokens.input, out + answer.tokens.output
    return Usage(calls + 1, unmeasured, into, out, cost_of(endpoint, into, out))


def cost_of(endpoint: EndpointConfig, input_tokens: int, output_tokens: int) -> float | None:
    """What so many tokens cost at the endpoint's prices; None when one of them is not known."""
    if not (endpoint.price_per_million_input and endpoint.price_per_million_output):
        return None
    return (input_tokens * endpoint.price_per_million_input + output_tokens * endpoint.price_per_million_output) / 1e6


def _entries(written: bytes, path: Path) -> Iterator[Entry]:
    torn = 0
    for line in written.split(b"\n"):
        try:
            content: dict[str, Any] = json.loads(line)
            tokens = content["tokens"]
            answer = Answer(content["text"], content["finish"], None if tokens is None else Tokens(*tokens))
            yield Entry(content["key"], content["at_most"], answer)
        except (ValueError, TypeError, KeyError):
            torn += bool(line.strip())
    if torn:
        log.warning("%s: %d entries are torn and are passed over", path, torn)
