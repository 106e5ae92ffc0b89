"""Pairs of rated answers: which two are paired, and which of the two is chosen. Knows no form."""

from itertools import combinations
from typing import Literal, TypeVar

from components.data.messages import Messages
from components.data.seed_pair import TIED, SeedPair

Choice = Literal["best_worst", "all_pairs"]
"""Pairs of a prompt with several rated answers: the best with the worst, or every two."""

Answer = TypeVar("Answer")


def chosen_two(
    rated: list[tuple[Answer, float]], choice: Choice
) -> list[tuple[tuple[Answer, float], tuple[Answer, float]]]:
    """Return every two of a prompt's rated answers, or only the best with the worst; of equal ones the first."""
    if choice == "all_pairs" or len(rated) < 2:
        return list(combinations(rated, 2))
    order = range(len(rated))
    best = max(order, key=lambda index: (rated[index][1], -index))
    worst = min((index for index in order if index != best), key=lambda index: (rated[index][1], index))
    return [(rated[best], rated[worst])]


def rated_pair(
    messages: Messages, first: tuple[str, float], second: tuple[str, float], *, place: str, tag: str | None = None
) -> SeedPair:
    """Return the pair of two rated answers: the better one is chosen, and two equal ratings are a tie.

    Args:
        messages: The prompt.
        first: An answer and its rating.
        second: The other answer and its rating.
        place: Name of the row, for errors.
        tag: Kind of preference.
    """
    better, worse = (first, second) if first[1] >= second[1] else (second, first)
    margin = float(better[1] - worse[1])
    return SeedPair(messages, better[0], worse[0], None if margin else TIED, margin, tag, place)
