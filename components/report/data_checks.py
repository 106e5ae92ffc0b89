"""Turn the data checks of a round's pairs into rows: verdict, measure, limit and masked examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.campaign.files import RoundFiles

ORDER = ("fail", "warn", "pass")
"""Verdicts, what needs attention first. A check that was skipped has none of them."""
HEADINGS = ("check", "verdict", "measure", "limit", "found")


@dataclass(frozen=True)
class CheckExample:
    """A pair that a check found; personal data and secrets are masked."""

    place: str
    detail: str
    excerpt: str


@dataclass(frozen=True)
class CheckRow:
    """A check that measured something."""

    name: str
    verdict: str
    measure: str
    limit: str
    found: str
    examples: tuple[CheckExample, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """The row under `HEADINGS`."""
        return (self.name, self.verdict, self.measure, self.limit, self.found)


@dataclass(frozen=True)
class CheckedRound:
    """The data checks of one round."""

    round: int
    rows: tuple[CheckRow, ...]
    """The checks that measured something, by `ORDER`."""
    skipped: tuple[str, ...]

    @property
    def broken(self) -> tuple[CheckRow, ...]:
        """The checks that are above their limits."""
        return tuple(row for row in self.rows if row.verdict != "pass")

    def count(self, verdict: str) -> int:
        """Return the number of checks with a verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def checked_round(files: RoundFiles, *, texts: bool) -> CheckedRound | None:
    """Return the data checks of a round; None if they are off, or an earlier version ran the round.

    Args:
        files: The round.
        texts: Whether examples are shown (`tracking.texts`).
    """
    checks = (files.validated or {}).get("checks")
    if not checks:
        return None
    examples = files.check_examples if texts else {}
    measured = [check for check in checks if check["verdict"] in ORDER]
    ranked = sorted(measured, key=lambda check: ORDER.index(check["verdict"]))
    skipped = tuple(check["name"] for check in checks if check["verdict"] not in ORDER)
    return CheckedRound(files.round, tuple(_row(check, examples.get(check["name"], ())) for check in ranked), skipped)


def _row(check: Mapping[str, Any], examples: Sequence[Mapping[str, str]]) -> CheckRow:
    return CheckRow(
        name=check["name"],
        verdict=check["verdict"],
        measure=_percent(check["share"]),
        limit=_percent(check["max_share"]),
        found=check["summary"],
        examples=tuple(CheckExample(each["place"], each["detail"], each["excerpt"]) for each in examples),
    )


def _percent(share: float) -> str:
    """Return a share as a percentage that is not rounded to nothing."""
    places = 1 if share == 0 or share >= 0.01 else 2
    return f"{100 * share:.{places}f} %"
