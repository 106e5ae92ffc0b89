"""How far the running stage is. Components report here; whoever shows it installs a listener. Knows no display.

A listener may end the running stage: what it raises in `advanced` reaches the stage's caller.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Listener(Protocol):
    """Somebody who shows what goes on."""

    def began(self, round: str, stage: str) -> None:
        """A stage of `round` (its directory's name) begins."""

    def advanced(self, done: int, total: int, text: str) -> None:
        """The running stage has finished `done` of `total` units; `text` is a short measured fact such as a loss."""

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """A stage is published; `seconds` is what it took when it ran, which `already_done` says was earlier."""


_listeners: list[Listener] = []


def report(done: int, total: int, text: str = "") -> None:
    """Says that `done` of `total` units of the running stage are finished."""
    for listener in _listeners:
        listener.advanced(done, total, text)


def began(round: str, stage: str) -> None:
    """Says that a stage begins."""
    for listener in _listeners:
        listener.began(round, stage)


def ended(round: str, stage: str, seconds: float, *, already_done: bool) -> None:
    """Says that a stage is published."""
    for listener in _listeners:
        listener.ended(round, stage, seconds, already_done=already_done)


@contextlib.contextmanager
def reporting_to(listener: Listener) -> Iterator[None]:
    """Sends what is reported within the block to a listener."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
