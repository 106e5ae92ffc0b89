"""A comparison asked of a chat model in both orders: the questions' form, what a reply means, and the verdicts. Words no question."""

from collections.abc import Mapping
from typing import Any

from components.data.messages import Messages
from components.judges.chat.question import Question, Reply
from components.judges.pairing import Comparison, is_repeated
from components.judges.protocol import BACKWARD, FORWARD, Opinion, Verdict, conclude_pair, make_verdict

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


def order_questions(comparison: Comparison, messages: Mapping[str, Messages], *, repeat_share: float) -> dict[str, Question]:
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
    return [*repeats, *conclude_pair(judge, group, first, second, forward=opinions[FORWARD], backward=opinions[BACKWARD])]


def conclude_equals(judge: str, comparison: Comparison) -> Verdict:
    """A tie between equal texts, which nobody has to be asked about."""
    group, first, second = comparison
    return make_verdict(judge, group, first, Opinion(0.5, "the texts are equal"), opponent_id=second)
