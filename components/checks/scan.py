"""The scan of a file: its batches go through the checks of rows, in as many processes as there are cores.

Batches come back in their order, so the result does not depend on the number of processes.
"""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

from components.checks.columns import Columns, columns_of
from components.checks.entries import Entries, Flag, read_entries
from components.checks.leakage import HeldOut, leakage
from components.checks.masking import excerpt
from components.checks.outcome import MOST_EXAMPLES, Example
from components.checks.registry import CHECKS, LEAKAGE
from components.config import ChecksConfig
from components.data.raw_batch import RawBatch

BATCH_ROWS = 1024
INLINE_BATCHES = 8
"""Batches up to which other processes are not worth their start."""
PER_PROCESS = 2
"""Batches that are read ahead for each process: they bound the memory."""


@dataclass
class Finding:
    """The rows of a batch that a check found, and examples of them."""

    rows: list[int] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


class Scanned(NamedTuple):
    """A batch after the checks of rows."""

    num_rows: int
    num_pairs: int
    read_bytes: int
    columns: Columns
    findings: dict[str, Finding]
    without_pair: list[tuple[int, str]]
    """Rows that say nothing of which answer is better, and why."""


class Scanner:
    """The checks of rows.

    Args:
        config: What is checked.
        held_out: The held-out prompts; None without.
    """

    def __init__(self, config: ChecksConfig, held_out: HeldOut | None) -> None:
        self.config, self.held_out = config, held_out
        self.checks = [check for check in CHECKS if check.limit(config).on_breach != "off"]

    def scan(self, batch: RawBatch) -> Scanned:
        """Check the rows of a batch."""
        entries = read_entries(batch)
        findings = {
            check.name: self._finding(flags, batch)
            for check in self.checks
            if (flags := self._flags(check.name, entries)) is not None
        }
        columns = columns_of(entries, self.config)
        return Scanned(len(batch), len(entries.pairs), batch.read_bytes, columns, findings, entries.without_pair)

    def _flags(self, name: str, entries: Entries) -> Iterator[Flag] | None:
        check = next(check for check in self.checks if check.name == name)
        if check.of_rows is not None:
            return check.of_rows(entries, self.config)
        return leakage(entries, self.config, self.held_out) if name == LEAKAGE and self.held_out else None

    def _finding(self, flags: Iterator[Flag], batch: RawBatch) -> Finding:
        """Return the first flag of each row, and the first ones as examples."""
        finding = Finding()
        for flag in flags:
            if finding.rows and finding.rows[-1] == flag.row:
                continue
            finding.rows.append(flag.row)
            finding.details.append(flag.detail)
            if len(finding.examples) < MOST_EXAMPLES:
                finding.examples.append(
                    Example(
                        place=batch.place(flag.row - batch.first),
                        detail=flag.detail,
                        excerpt=excerpt(flag.text, flag.start, flag.end, region=self.config.phone_region),
                    )
                )
        return finding


def scan_batches(batches: Iterator[RawBatch], scanner: Scanner) -> Iterator[Scanned]:
    """Yield the batches after the checks of rows, in order."""
    first = list(islice(batches, INLINE_BATCHES))
    following = next(batches, None)
    processes = len(os.sched_getaffinity(0))
    if following is None or processes == 1:
        rest = [] if following is None else chain([following], batches)
        yield from map(scanner.scan, chain(first, rest))
        return
    with _pool(processes, scanner) as pool:
        waiting: deque[Future[Scanned]] = deque()
        for batch in chain(first, [following], batches):
            waiting.append(pool.submit(_scan, batch))
            if len(waiting) >= PER_PROCESS * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _pool(processes: int, scanner: Scanner) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of fresh processes; a fork would copy the threads' locks of the progress display."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(scanner, os.getpid()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


_scanner: list[Scanner] = []
"""The scanner of this process, if it is one of a pool."""


def _begin(scanner: Scanner, parent: int) -> None:
    _end_with(parent)
    _scanner.append(scanner)


def _end_with(parent: int) -> None:
    """End this process when its parent does: one that is killed does not close the pool."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)


def _scan(batch: RawBatch) -> Scanned:
    return _scanner[0].scan(batch)
