"""Comparisons of two responses in both orders.

Owns which comparisons are asked and which are repeated, the form of the questions, and the verdicts that follow.

The choice is by content, so a resumed run asks the same questions. The wording of the questions is elsewhere.
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
    """sample_id of the response that the forward order shows first."""
    second: int

    @property
    def texts(self) -> tuple[str, str]:
        """The two responses."""
        texts = dict(self.group.responses)
        return texts[self.first], texts[self.second]

    @property
    def is_between_equals(self) -> bool:
        """Whether the texts are equal: a tie that needs no question."""
        first, second = self.texts
        return first == second


def choose_comparisons(group: Group, count: int) -> list[Comparison]:
    """Choose comparisons of a prompt's responses, each pair at most once.

    Args:
        group: The prompt and its responses.
        count: Number of comparisons of different texts, spread evenly over the responses; 0 takes all.

    Returns:
        The chosen comparisons, and all comparisons of equal texts.
    """
    every = [Comparison(group, *sorted(pair)) for pair in _round_robin(_by_content(group))]
    different = [comparison for comparison in every if not comparison.is_between_equals]
    selected = different if count == 0 else list(islice(different, count))
    equal = [comparison for comparison in every if comparison.is_between_equals]
    return sorted([*selected, *equal], key=lambda comparison: comparison[1:])


def is_repeated(comparison: Comparison, share: float) -> bool:
    """Return whether a comparison belongs to the share of comparisons that is asked a second time."""
    return _fraction(format_messages(comparison.group.messages), *sorted(comparison.texts)) < share


def _by_content(group: Group) -> list[int]:
    prompt = format_messages(group.messages)
    return [
        sample_id
        for sample_id, _ in sorted(group.responses, key=lambda response: (_fraction(prompt, response[1]), response[0]))
    ]


def _round_robin(samples: list[int]) -> Iterator[tuple[int, int]]:
    """Yield all pairs in the order of a round-robin tournament: each sample plays at most once per round."""
    players: list[int | None] = [*samples, *([None] if len(samples) % 2 else [])]
    for _ in range(len(players) - 1):
        for first, second in zip(players[: len(players) // 2], reversed(players), strict=False):
            if first is not None and second is not None:
                yield first, second
        players = [players[0], players[-1], *players[1:-1]]


def _fraction(*texts: str) -> float:
    """Hash the texts to a number in [0, 1)."""
    return int.from_bytes(sha256(repr(texts).encode()).digest()[:6], "big") / 2**48


SCHEMA: dict[str, Any] = {
    "type": "object",
    # The reason comes first, so that the model reasons before it decides.
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B", "tie"]}},
    "required": ["reason", "verdict"],
}
SCORES = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Probability that the answer shown first is better."""
REPEATED = {order: f"repeat {order}" for order in (FORWARD, BACKWARD)}
"""By order, the part of the verdict from asking a second time."""


def texts_by_order(comparison: Comparison) -> dict[str, tuple[str, str]]:
    """Return, by order, the two texts as the judge sees them."""
    first, second = comparison.texts
    return {FORWARD: (first, second), BACKWARD: (second, first)}


def order_questions(
    comparison: Comparison, messages: Mapping[str, Messages], *, repeat_share: float
) -> dict[str, Question]:
    """Build the questions about a comparison, by the part of the verdict that each one leads to.

    Args:
        comparison: The two responses.
        messages: By order, the question.
        repeat_share: Share of the comparisons that are asked a second time, in [0, 1].
    """
    about = format_messages(comparison.group.messages)
    questions = {order: Question(asked, SCHEMA, prompt=about) for order, asked in messages.items()}
    if is_repeated(comparison, repeat_share):
        questions |= {REPEATED[order]: question._replace(repeat=1) for order, question in list(questions.items())}
    return questions


def read_opinion(reply: Reply) -> Opinion:
    """Return the score of a reply with its reason; no score if the reply is invalid."""
    if reply.value is None:
        return Opinion(None, reply.detail)
    return Opinion(SCORES[reply.value["verdict"]], reply.value["reason"])


def conclude_orders(judge: str, comparison: Comparison, opinions: Mapping[str, Opinion]) -> list[Verdict]:
    """Return the verdicts on both orders and their repetitions, then the conclusion.

    Args:
        judge: The judge's name.
        comparison: The two responses.
        opinions: By part; holds at least both orders.
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
    """Return the tie between two equal texts."""
    group, first, second = comparison
    return make_verdict(judge, group, first, Opinion(0.5, "the texts are equal"), opponent_id=second)
