"""The calls that were paid for and their answers, on disk from the moment each arrives. Knows no network.

One JSON line a call in an append-only file, which any file system and a kill at any moment leave readable: a line that
is no whole entry is passed over.
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
    """What a call took, as the endpoint counted it."""

    input: int
    output: int


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
    """Cost of the measured calls, at the prices when they were made; None when none was measured, or the price of one
    was not known."""


NO_USAGE = Usage(0, 0, 0, 0, None)


def cost_of(endpoint: EndpointConfig, tokens: Tokens) -> float | None:
    """What so many tokens cost at the endpoint's prices; None when one of the prices is not known."""
    if not (endpoint.price_per_million_input and endpoint.price_per_million_output):
        return None
    return (tokens.input * endpoint.price_per_million_input + tokens.output * endpoint.price_per_million_output) / 1e6


def together(one: Usage, other: Usage) -> Usage:
    """Two parts' calls as one."""
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
    """What a call brought."""

    text: str | None
    """The answer's text; None when none came that can be used."""
    finish: str
    """Why the endpoint ended it: `stop`, `length`, ..."""
    tokens: Tokens | None
    """None when the endpoint did not say."""


NOTHING = ChatAnswer(None, "", None)
"""What a call brought that the endpoint may have worked on, but of which no answer came."""


class Entry(NamedTuple):
    """A call as it is written down."""

    key: str
    """Identity of the request, by content."""
    answer: ChatAnswer
    cost: float | None
    """What it cost; None when its tokens or its price are not known."""
    at_most: float
    """What it may have cost, should its tokens not be known."""


class Ledger:
    """All calls to one model, of this start and of earlier ones; open within a `with` block."""

    def __init__(self, directory: Path, model: str) -> None:
        self._path = directory / f"chat-{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}-{digest(model)[:8]}.jsonl"
        self._answers: dict[str, ChatAnswer] = {}
        self.usage = NO_USAGE
        """What all calls came to."""
        self.cost_at_most = 0.0
        """What all calls may have cost: those that were not measured count the most that they can have taken."""
        self._file: int | None = None

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
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
        """The answer to a request, if it was paid for already."""
        return self._answers.get(key)

    def add(self, entry: Entry) -> None:
        """Writes a call down; it is on the disk when this returns."""
        assert self._file is not None
        line = json.dumps({**entry._asdict(), "answer": entry.answer._asdict()}).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path}: there is no room for an answer")
        os.fsync(self._file)
        self._note(entry)

    def _note(self, entry: Entry) -> None:
        self.usage = together(self.usage, _usage_of(entry))
        self.cost_at_most += entry.at_most if entry.cost is None else entry.cost
        if entry.answer.text is not None:
            self._answers[entry.key] = entry.answer


def read_usage(directory: Path) -> Usage | None:
    """What all calls came to that the ledgers in and below a directory know of; None where no endpoint was asked."""
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
        log.warning("%s: %d entries are torn and are passed over", path, torn)


def _entry(content: dict[str, Any]) -> Entry:
    answer = content["answer"]
    tokens = None if answer["tokens"] is None else Tokens(*answer["tokens"])
    return Entry(
        content["key"], ChatAnswer(answer["text"], answer["finish"], tokens), content["cost"], content["at_most"]
    )


def write_usage(out: Path, scratch: Path) -> None:
    """Writes what the calls took that `scratch` knows of, over all starts of the stage.

    Nothing where no endpoint was asked.
    """
    usage = read_usage(scratch)
    if usage is not None:
        write_json(out / JUDGE_USAGE, usage._asdict())
