"""Report the progress of the running stage to listeners. Knows no display.

A listener may end the running stage: an error that it raises in `advanced` reaches the stage's caller.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol

PROGRESS_MARK = "::progress "
"""Begins a line in which a child process reports its progress."""


class Listener(Protocol):
    """Receives the progress of stages."""

    def began(self, round: str, stage: str) -> None:
        """Handle the beginning of a stage of `round` (the name of its directory)."""

    def advanced(self, done: int, total: int, text: str) -> None:
        """Handle progress: `done` of `total` units are finished; `text` is a short measured fact, such as a loss."""

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Handle the end of a stage that took `seconds`; with `already_done` it ran in an earlier call."""


_listeners: list[Listener] = []


def report(done: int, total: int, text: str = "") -> None:
    """Report that `done` of `total` units of the running stage are finished."""
    for listener in _listeners:
        listener.advanced(done, total, text)


def began(round: str, stage: str) -> None:
    """Report that a stage begins."""
    for listener in _listeners:
        listener.began(round, stage)


def ended(round: str, stage: str, seconds: float, *, already_done: bool) -> None:
    """Report that a stage is published."""
    for listener in _listeners:
        listener.ended(round, stage, seconds, already_done=already_done)


@contextlib.contextmanager
def reporting_to(listener: Listener) -> Iterator[None]:
    """Send everything that is reported within the block to a listener."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
