"""Time and memory of a round, from what a few real steps took. Arithmetic only."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Work that was measured: `units` of it in `seconds`."""

    units: float
    seconds: float

    def seconds_for(self, units: float) -> float:
        """Return how long so many units take at this rate."""
        return units * self.seconds / self.units


@dataclass(frozen=True)
class StageEstimate:
    """One stage of the round as it is expected to be."""

    stage: str
    seconds: float | None
    """None if nothing measured says."""
    memory_bytes: int | None
    basis: str
    """What was measured."""


class Counts:
    """Reports of the stages' progress, by stage; a `components.runtime.progress.Listener`."""

    def __init__(self) -> None:
        self._stage = ""
        self._seen: dict[str, list[tuple[float, int, int]]] = {}
        """By stage, (time, done, total) of each report."""

    def began(self, round: str, stage: str) -> None:
        """Note that a stage begins."""
        self._stage, self._seen[stage] = stage, []

    def advanced(self, done: int, total: int, text: str) -> None:
        """Note a report of the running stage."""
        self._seen.setdefault(self._stage, []).append((time.monotonic(), done, total))

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Do nothing: the reports of a finished stage stay."""

    def rate(self, stage: str, *, total: int) -> Rate | None:
        """Return the speed of a count whose reports have this total; None if fewer than two tell it."""
        own = [(at, done) for at, done, its_total in self._seen.get(stage, []) if its_total == total]
        if len(own) < 2 or own[-1][1] <= own[0][1] or own[-1][0] <= own[0][0]:
            return None
        return Rate(own[-1][1] - own[0][1], own[-1][0] - own[0][0])


def num_steps(pairs: int, *, pairs_per_step: int, epochs: int) -> int:
    """Return the optimizer steps of a training."""
    return epochs * math.ceil(pairs / pairs_per_step)


def typical(step_seconds: Sequence[float]) -> float:
    """Return the median of the steps behind the first, which also prepares the kernels; of all if there is one."""
    ordered = sorted(step_seconds[1:] or step_seconds)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def total(stages: Sequence[StageEstimate]) -> tuple[float, list[str]]:
    """Return the seconds of a round as far as they are known, and the stages whose time is not."""
    known = sum(stage.seconds for stage in stages if stage.seconds is not None)
    return known, [stage.stage for stage in stages if stage.seconds is None]
