"""Comparisons of two responses in both orders.

Which are asked and which are repeated, the questions' form, and the verdicts.

The choice is by content, so a resumed run asks the same questions. Words no question.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

from components.data.messages import Messages, format_messages
from components.judges.chat.form import Question, Reply
from components.judges.protocol import BACKWARD, FORWARD, Group, Opinion, Verdict, conclude_pair, make_verdict


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
    return [
        sample_id
        for sample_id, _ in sorted(group.responses, key=lambda response: (_fraction(prompt, response[1]), response[0]))
    ]


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


SCHEMA: dict[str, Any] = {
    "type": "object",
    # A model that has to give its reason first decides after it has thought.
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["reason", "verdict"],
}
SCORES = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Probability that the answer shown first is better."""
REPEATED = {order: f"repeat {order}" for order in (FORWARD, BACKWARD)}
"""Parts of the verdicts that were asked for a second time."""


def shown(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """By order, the texts as they are shown."""
    first, second = comparison.texts
    return {FORWARD: (first, second), BACKWARD: (second, first)}


def order_questions(
    comparison: Comparison, messages: Mapping[str, Messages], *, repeat_share: float
) -> dict[str, Question]:
    """What is asked on a comparison, by the part that the verdict gets.

    Args:
        comparison: The two responses.
        messages: By order, what is asked.
        repeat_share: Share of the comparisons that are asked a second time, in [0, 1].
    """
    questions = {order: Question(asked, SCHEMA) for order, asked in messages.items()}
    if is_repeated(comparison, repeat_share):
        questions |= {REPEATED[order]: Question(asked, SCHEMA, repeat=1) for order, asked in messages.items()}
    return questions


def read_opinion(reply: Reply) -> Opinion:
    """The verdict of a reply, with its reason."""
    if reply.value is None:
        return Opinion(None, reply.detail)
    return Opinion(SCORES[reply.value["verdict"]], reply.value["reason"])


def conclude_orders(judge: str, comparison: Comparison, opinions: Mapping[str, Opinion]) -> list[Verdict]:
    """The conclusion, after all that was said on the way to it.

    Args:
        judge: The judge's name.
        comparison: The two responses.
        opinions: By part; both orders are there.
    """
    group, first, second = comparison
    places = {FORWARD: (first, second), BACKWARD: (second, first)}
    repeats = [
        make_verdict(judge, group, places[order][0], opinions[part], opponent_id=places[order][1], part=part)
        for order, part in REPEATED.items()
        if part in opinions
    ]
    return [
        *repeats,
        *conclude_pair(judge, group, first, second, forward=opinions[FORWARD], backward=opinions[BACKWARD]),
    ]


def conclude_equals(judge: str, comparison: Comparison) -> Verdict:
    """A tie between equal texts, which nobody has to be asked about."""
    group, first, second = comparison
    return make_verdict(judge, group, first, Opinion(0.5, "the texts are equal"), opponent_id=second)
