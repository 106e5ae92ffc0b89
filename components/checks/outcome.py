"""What a check found in a file: its verdict, its numbers, and examples that are safe to show."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

from components.config import Limit
from components.records import Record

Verdict = Literal["pass", "warn", "fail", "skipped"]
"""`skipped`: switched off, or there was nothing to measure; that is never a pass."""
MOST_EXAMPLES = 5


class Bar(NamedTuple):
    """A bar of a small chart."""

    label: str
    share: float
    """Length, in [0, 1]."""
    text: str


class Example(Record):
    """A row that a check found, in words that are safe to show."""

    place: str
    detail: str
    excerpt: str


class Measure(NamedTuple):
    """What a check of the whole file measured, if it is not the share of the rows that it found."""

    share: float | None
    """The share that the limit is about; None if there is nothing to measure."""
    summary: str
    bars: tuple[Bar, ...] = ()


class CheckResult(Record):
    """The result of one check."""

    name: str
    verdict: Verdict
    summary: str
    found: int
    """Rows that the check found."""
    total: int
    """Rows that were checked."""
    share: float | None
    """The share that the limit is about; None if there was nothing to measure."""
    max_share: float
    on_breach: Literal["fail", "warn", "off"]
    quarantine: bool
    details: dict[str, int]
    """Rows by what is wrong with them."""
    examples: tuple[Example, ...] = ()
    bars: tuple[Bar, ...] = ()


def verdict(share: float | None, limit: Limit) -> Verdict:
    """Return what a share means under a limit."""
    if share is None or limit.on_breach == "off":
        return "skipped"
    return "pass" if share <= limit.max_share else limit.on_breach


def count_details(details: Iterable[str]) -> dict[str, int]:
    """Return how often each detail occurs, most frequent first."""
    return dict(Counter(details).most_common())
