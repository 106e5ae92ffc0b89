"""The paid calls and their answers, on disk from the moment each arrives. Knows no network.

One JSON line per call in an append-only file, which stays readable on any file system and after a kill at any moment:
a line that is not a whole entry is skipped.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from components.artifacts import digest, write_json
from components.config import EndpointConfig
from components.records import JUDGE_USAGE

log = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """Tokens of a call, as the endpoint counted them."""

    input: int
    output: int


class Usage(NamedTuple):
    """Usage of the calls of a stage, over all its starts."""

    calls: int
    """Calls with an answer, and calls without one that may have been charged."""
    unmeasured: int
    """Calls among them whose tokens the endpoint did not report."""
    input_tokens: int
    """Prompt tokens of the measured calls."""
    output_tokens: int
    """Answer tokens of the measured calls."""
    cost: float | None
    """Cost of the measured calls, at the prices at that time; None if none was measured, or the price of one is not
    known."""


NO_USAGE = Usage(0, 0, 0, 0, None)


def cost_of(endpoint: EndpointConfig, tokens: Tokens) -> float | None:
    """Return the cost of the tokens at the endpoint's prices; None if one of the prices is not known."""
    if not (endpoint.price_per_million_input and endpoint.price_per_million_output):
        return None
    return (tokens.input * endpoint.price_per_million_input + tokens.output * endpoint.price_per_million_output) / 1e6


def together(one: Usage, other: Usage) -> Usage:
    """Return the sum of two usages."""
    costs = [part.cost for part in (one, other) if part.calls > part.unmeasured]
    known = [cost for cost in costs if cost is not None]
    return Usage(
        calls=one.calls + other.calls,
        unmeasured=one.unmeasured + other.unmeasured,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost=sum(known) if known and len(known) == len(costs) else None,
    )


class ChatAnswer(NamedTuple):
    """The answer of a call."""

    text: str | None
    """The answer's text; None if no usable answer came."""
    finish: str
    """Why the answer ended: `stop`, `length`, ..."""
    tokens: Tokens | None
    """None if the endpoint did not report them."""
    remark: str = ""
    """What stands in the place of an empty text, such as a refusal or a tool call."""


NOTHING = ChatAnswer(None, "", None)
"""The answer of a call that the endpoint may have charged, but that returned no answer."""


class Entry(NamedTuple):
    """A call, as the ledger stores it."""

    key: str
    """Identity of the request, by content."""
    answer: ChatAnswer
    cost: float | None
    """Cost of the call; None if its tokens or its price are not known."""
    at_most: float
    """Upper bound of the cost, for the case that the tokens are not known."""


class Ledger:
    """All calls to one model, of this start and of earlier ones; open within a `with` block."""

    def __init__(self, directory: Path, model: str) -> None:
        self._path = directory / f"chat-{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}-{digest(model)[:8]}.jsonl"
        self._answers: dict[str, ChatAnswer] = {}
        self.usage = NO_USAGE
        """Usage of all calls."""
        self.cost_at_most = 0.0
        """Upper bound of the cost of all calls: unmeasured calls count with their own upper bound."""
        self._file: int | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._answers, self.usage, self.cost_at_most = {}, NO_USAGE, 0.0
        content = self._path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.write(self._file, b"\n")
        for entry in _entries(content, self._path):
            self._note(entry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        os.close(self._file)
        self._file = None

    def find(self, key: str) -> ChatAnswer | None:
        """Return the answer to a request if it is paid for already, else None."""
        return self._answers.get(key)

    def add(self, entry: Entry) -> None:
        """Append a call; it is on disk when this returns."""
        assert self._file is not None
        line = json.dumps({**entry._asdict(), "answer": entry.answer._asdict()}).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"an answer could not be written to {self._path}: free some disk space")
        os.fsync(self._file)
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        self.usage = together(self.usage, _usage_of(entry))
        self.cost_at_most += entry.at_most if entry.cost is None else entry.cost
        if entry.answer.text is not None:
            self._answers[entry.key] = entry.answer


def read_usage(directory: Path) -> Usage | None:
    """Return the usage of all calls in the ledgers in and below a directory; None if there is no ledger."""
    paths = sorted(directory.rglob("chat-*.jsonl")) if directory.is_dir() else []
    return (
        reduce(together, (_usage_of(entry) for path in paths for entry in _entries(path.read_bytes(), path)), NO_USAGE)
        if paths
        else None
    )


def _usage_of(entry: Entry) -> Usage:
    tokens = entry.answer.tokens
    return Usage(1, 1, 0, 0, None) if tokens is None else Usage(1, 0, tokens.input, tokens.output, entry.cost)


def _entries(written: bytes, path: Path) -> Iterator[Entry]:
    torn = 0
    for line in written.split(b"\n"):
        try:
            yield _entry(json.loads(line))
        except (ValueError, TypeError, KeyError):
            torn += bool(line.strip())
    if torn:
        log.warning("%s: skipped %d lines that are not a whole entry", path, torn)


def _entry(content: dict[str, Any]) -> Entry:
    answer = content["answer"]
    tokens = None if answer["tokens"] is None else Tokens(*answer["tokens"])
    return Entry(
        content["key"],
        ChatAnswer(answer["text"], answer["finish"], tokens, answer.get("remark", "")),
        content["cost"],
        content["at_most"],
    )


def write_usage(out: Path, scratch: Path) -> None:
    """Write the usage of the calls in `scratch`, over all starts of the stage.

    Writes nothing if no endpoint was asked.
    """
    usage = read_usage(scratch)
    if usage is not None:
        write_json(out / JUDGE_USAGE, usage._asdict())
