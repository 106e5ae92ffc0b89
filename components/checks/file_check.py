"""The check of a whole file of preference pairs: it scans the rows once and then reads again only what it must."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from components.checks.columns import CHOSEN, PROMPT, REJECTED, Columns, joined
from components.checks.duplicates import Places, ShinglesOf
from components.checks.entries import CHECKED_COLUMNS, Entry, Flag
from components.checks.leakage import HeldOut
from components.checks.masking import excerpt
from components.checks.outcome import MOST_EXAMPLES, Bar, CheckResult, Example, count_details, verdict
from components.checks.registry import CHECKS, LEAKAGE, Check
from components.checks.scan import BATCH_ROWS, Scanned, Scanner, scan_batches
from components.checks.shingles import Shingles, shingles, word_hashes
from components.config import ChecksConfig
from components.data.forms.pair_rows import read_pair
from components.data.raw_batch import JOINED, NoPair, RawBatch, Read, Unreadable
from components.data.seed_pair import SeedPair
from components.runtime import progress


class Source(Protocol):
    """Rows of pairs that can be read more than once; `PairSource` is one, and `RowSource` if its rows are pairs."""

    source: str

    @property
    def total_rows(self) -> int | None:
        """Number of rows, if it is known."""

    @property
    def total_bytes(self) -> int:
        """Bytes of the file; 0 if it is none."""

    def batches(self, *, size: int, columns: Collection[str] | None) -> Iterator[RawBatch]:
        """Yield the rows in order."""

    def take(self, rows: Collection[int], *, size: int) -> Iterator[tuple[int, Read]]:
        """Yield some rows by index, in order."""


@dataclass
class Found:
    """The rows that a check has found, and what is wrong with each."""

    details: dict[int, str] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class FileResult:
    """What the checks found in a file."""

    source: str
    num_rows: int
    num_pairs: int
    checks: list[CheckResult]
    rejected: dict[int, str]
    """Why rows go to quarantine, by index of the row."""
    left_out: dict[str, int]
    """Number of rows that say nothing of which answer is better, by reason."""
    form: str = ""
    """Name of the form of the rows, if one was recognised."""

    @property
    def verdict(self) -> str:
        """The worst verdict of a check."""
        verdicts = {check.verdict for check in self.checks}
        return next((name for name in ("fail", "warn") if name in verdicts), "pass")


class FileCheck:
    """The checks of one file.

    Args:
        source: The rows.
        config: What is checked, and the limits.
        held_out: The held-out prompts; None without.
    """

    def __init__(self, source: Source, config: ChecksConfig, held_out: HeldOut | None) -> None:
        self.source, self.config, self.held_out = source, config, held_out
        self.found = {check.name: Found() for check in CHECKS}
        self.num_rows = self.num_pairs = 0
        self.left_out: Counter[str] = Counter()
        self.joined: list[int] = []
        """Rows whose pair stands in the place of the row before."""

    def run(self) -> FileResult:
        """Run all checks.

        Raises:
            ValueError: The file cannot be read, is empty, or no row of it is a pair.
        """
        columns = self._scan()
        results = [self._result(check, columns) for check in CHECKS]
        rejected = self._rejected()
        return FileResult(self.source.source, self.num_rows, self.num_pairs, results, rejected, dict(self.left_out))

    @property
    def num_checked(self) -> int:
        """Number of rows that are pairs, or should be."""
        return self.num_rows - len(self.joined) - self.left_out.total()

    def _scan(self) -> Columns:
        parts: list[Columns] = []
        batches = self.source.batches(size=BATCH_ROWS, columns=CHECKED_COLUMNS)
        for scanned in scan_batches(batches, Scanner(self.config, self.held_out)):
            parts.append(scanned.columns)
            self._take_in(scanned)
            total = self.source.total_rows or self.source.total_bytes
            done = self.num_rows if self.source.total_rows else scanned.read_bytes
            progress.report(min(done, total), total, f"{self.num_rows:,} rows checked")
        if not self.num_rows:
            raise ValueError(f"{self.source.source} is empty: name a data set with at least one row")
        if not self.num_pairs and not self.found["different_prompts"].details:
            errors = [example.excerpt for example in self.found["form"].examples if example.excerpt]
            reasons = "".join(f"; {count} rows: {reason}" for reason, count in self.left_out.items())
            raise ValueError(
                errors[0] if errors else f"no row of {self.source.source} is a pair of answers to a prompt{reasons}"
            )
        return joined(parts)

    def _take_in(self, scanned: Scanned) -> None:
        self.num_rows += scanned.num_rows
        self.num_pairs += scanned.num_pairs
        self.joined += [row for row, reason in scanned.without_pair if reason == JOINED]
        self.left_out.update(reason for _, reason in scanned.without_pair if reason != JOINED)
        for name, finding in scanned.findings.items():
            found = self.found[name]
            found.details.update(zip(finding.rows, map(sys.intern, finding.details), strict=True))
            found.examples += finding.examples[: MOST_EXAMPLES - len(found.examples)]

    def _result(self, check: Check, columns: Columns) -> CheckResult:
        limit, found = check.limit(self.config), self.found[check.name]
        share: float | None = None
        summary, bars = "switched off", tuple[Bar, ...]()
        if limit.on_breach != "off":
            if check.measures is not None:
                share, summary, bars = check.measures(columns, self.config)
            elif check.name == LEAKAGE and self.held_out is None:
                summary = "not compared: no held-out prompts are named"
            else:
                self._find(check, columns)
                share = len(found.details) / self.num_checked if self.num_checked else 0.0
                summary = f"{len(found.details):,} of {self.num_checked:,} rows"
        return CheckResult(
            name=check.name,
            verdict=verdict(share, limit),
            summary=summary,
            found=len(found.details),
            total=self.num_checked,
            share=share,
            details=count_details(found.details.values()),
            examples=tuple(found.examples),
            bars=bars,
            **limit.model_dump(),
        )

    def _find(self, check: Check, columns: Columns) -> None:
        """Run a check of the whole file; those of rows have run."""
        if check.of_file is not None:
            self._add(check.name, check.of_file(columns, self.config))
        elif check.of_texts is not None:
            self._add(check.name, check.of_texts(columns, self.config, self._shingles_of(check.name)))

    def _add(self, name: str, flags: Iterable[Flag]) -> None:
        found, like = self.found[name], dict[int, int | None]()
        for flag in flags:
            found.details.setdefault(flag.row, sys.intern(flag.detail))
            like.setdefault(flag.row, flag.like)
        shown = sorted(found.details)[:MOST_EXAMPLES]
        others = {other for row in shown if (other := like[row]) is not None}
        rows = dict(self.source.take({*shown, *others}, size=BATCH_ROWS))
        for index in shown:
            other = like[index]
            repeated = "" if other is None else f" ({rows[other].place.removeprefix(self.source.source).strip()})"
            found.examples.append(self._example(rows[index], found.details[index], repeated))

    def _example(self, row: Read, detail: str, repeated: str) -> Example:
        pair = pair_of(row)
        sides = ("", "", "") if pair is None else (Entry(0, pair, {}).prompt, pair.chosen, pair.rejected)
        text = sides[CHOSEN if "chosen answer" in detail else REJECTED if "rejected answer" in detail else PROMPT]
        shown = excerpt(text or "", region=self.config.phone_region)
        return Example(place=row.place, detail=detail + repeated, excerpt=shown)

    def _shingles_of(self, name: str) -> ShinglesOf:
        def read(places: Places) -> dict[int, Shingles]:
            wanted = set(places.tolist())
            read: dict[int, Shingles] = {}
            rows = np.unique(places // 3).tolist()
            for number, (index, row) in enumerate(self.source.take(rows, size=BATCH_ROWS), 1):
                pair = pair_of(row)
                assert pair is not None, row.place
                texts = (Entry(index, pair, {}).prompt, pair.chosen, pair.rejected)
                for side, text in enumerate(texts, PROMPT):
                    if 3 * index + side in wanted:
                        read[3 * index + side] = shingles(word_hashes(text or ""))
                if number % BATCH_ROWS == 0:
                    progress.report(number, len(rows), f"rows compared ({name})")
            return read

        return read

    def _rejected(self) -> dict[int, str]:
        """Return why rows go to quarantine: each check that sets its rows aside, and what it found."""
        reasons: dict[int, list[str]] = {}
        for check in CHECKS:
            if check.limit(self.config).quarantine:
                for row, detail in self.found[check.name].details.items():
                    reasons.setdefault(row, []).append(f"{check.name}: {detail}")
        for row in self.joined:
            if row - 1 in reasons:
                reasons[row] = reasons[row - 1]
        return {row: "; ".join(reasons[row]) for row in sorted(reasons)}


def pair_of(row: Read) -> SeedPair | None:
    """Return the pair of a row; None if it is none."""
    if isinstance(row, Unreadable | NoPair):
        return None
    try:
        return read_pair(row, [*row.values])
    except ValueError:
        return None
