"""Which of a prompt's responses a judge compares, and which comparisons it makes twice: by content, so that a resumed run asks the same."""

from collections.abc import Iterator
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

from components.data.messages import format_messages
from components.judges.protocol import Group


class Comparison(NamedTuple):
    """Two responses to a prompt."""

    group: Group
    first: int
    """sample_id of the one that is shown first when the two are compared in order."""
    second: int

    @property
    def texts(self) -> tuple[str, str]:
        """The two responses."""
        texts = dict(self.group.responses)
        return texts[self.first], texts[self.second]

    @property
    def is_between_equals(self) -> bool:
        """Whether the texts are the same: a tie that nobody has to be asked about."""
        first, second = self.texts
        return first == second


def chosen_comparisons(group: Group, count: int) -> list[Comparison]:
    """Comparisons of a prompt's responses, each pair at most once.

    Args:
        group: The prompt and its responses.
        count: How many comparisons of different texts; 0 takes all. They are spread evenly over the responses.

    Returns:
        Those, and all comparisons of equal texts.
    """
    every = [Comparison(group, *sorted(pair)) for pair in _round_robin(_by_content(group))]
    different = [comparison for comparison in every if not comparison.is_between_equals]
    taken = different if count == 0 else list(islice(different, count))
    equal = [comparison for comparison in every if comparison.is_between_equals]
    return sorted([*taken, *equal], key=lambda comparison: comparison[1:])


def is_repeated(comparison: Comparison, share: float) -> bool:
    """Whether a comparison belongs to the share that is asked for again."""
    return _fraction(format_messages(comparison.group.messages), *sorted(comparison.texts)) < share


def _by_content(group: Group) -> list[int]:
    prompt = format_messages(group.messages)
    return [sample_id for sample_id, _ in sorted(group.responses, key=lambda response: (_fraction(prompt, response[1]), response[0]))]


def _round_robin(samples: list[int]) -> Iterator[tuple[int, int]]:
    """All pairs as in a tournament: round by round, in each of which everybody plays at most once."""
    players: list[int | None] = [*samples, *([None] if len(samples) % 2 else [])]
    for _ in range(len(players) - 1):
        for one, other in zip(players[: len(players) // 2], reversed(players), strict=False):
            if one is not None and other is not None:
                yield one, other
        players = [players[0], players[-1], *players[1:-1]]


def _fraction(*texts: str) -> float:
    """A number in [0, 1) that only these texts give."""
    return int.from_bytes(sha256(repr(texts).encode()).digest()[:6], "big") / 2**48
