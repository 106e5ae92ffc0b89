"""The rows of an evaluation: `samples_per_prompt` of them for each prompt, one behind the other. Pure."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def repeated(values: Sequence[T], times: int) -> list[T]:
    """Return each prompt's value once for each of its rows."""
    return [value for value in values for _ in range(times)]


def by_prompt(rows: Sequence[T], samples: int) -> list[Sequence[T]]:
    """Return the rows of each prompt."""
    return [rows[begin : begin + samples] for begin in range(0, len(rows), samples)]
