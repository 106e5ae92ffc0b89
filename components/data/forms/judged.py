"""Two answers and what each person said about them, for the forms that hold it. Knows no form."""

from typing import Literal, NamedTuple

from components.data.messages import Messages

Judgement = Literal["first", "second", "tie", "both_bad"]
SCORES: dict[Judgement, tuple[float, float]] = {
    "first": (1.0, 0.0),
    "second": (0.0, 1.0),
    "tie": (0.5, 0.5),
    "both_bad": (0.0, 0.0),
}
"""Scores of the first and the second answer."""


class JudgedPair(NamedTuple):
    """Two answers to a prompt, and who preferred which."""

    messages: Messages
    first: str
    second: str
    tag: str | None
    votes: tuple[tuple[str | None, Judgement], ...]
    """Who, in the words of the tool, and what they said; None if the file does not say who."""


def judgement(first: float, second: float) -> Judgement:
    """Return what two scores say."""
    return "tie" if first == second else "first" if first > second else "second"
