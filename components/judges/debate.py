"""The debate judge: a case for each answer, then a verdict (Irving, Christiano and Amodei 2018, arXiv 1805.00899).

In each order of a comparison it asks one chat model three questions: the case for the first answer, the case for the
second answer, and the verdict in view of both. That is six questions per comparison, and two more if `repeat_share`
repeats the verdicts. The detail of a verdict holds both cases.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components import artifacts
from components.config import JudgeSettings
from components.data.messages import Messages, format_messages
from components.judges.chat.client import Chat, Question, Reply
from components.judges.chat.credentials import check_endpoint
from components.judges.chat.quoting import NOTICE
from components.judges.chat.request import identity_of_fields
from components.judges.comparisons import (
    REPEATED,
    SCHEMA,
    Comparison,
    choose_comparisons,
    conclude_equals,
    conclude_orders,
    order_questions,
    read_opinion,
    texts_by_order,
)
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict
from components.judges.wording import ask_about, pair_data, wording

ARGUMENT, VERDICT = "debate_argument", "debate_verdict"
SIDES = ("A", "B")


class Cases(NamedTuple):
    """The case for the answer that is shown first, and the case for the other one."""

    first: Reply
    second: Reply

    @property
    def missing(self) -> str:
        """Why a case is missing; empty if both cases exist."""
        sides = [(side, reply.detail) for side, reply in zip(SIDES, self, strict=True) if reply.value is None]
        return "; ".join(f"no case for answer {side}: {detail}" for side, detail in sides)

    @property
    def data(self) -> dict[str, str]:
        """Both cases as the data of the verdict's question; requires that none is missing."""
        assert self.first.value is not None, self.missing
        assert self.second.value is not None, self.missing
        return {"case_a": self.first.value["text"], "case_b": self.second.value["text"]}


class DebateJudge:
    """Compare the responses to a prompt by the cases for them."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Read the API key.

        Raises:
            ValueError: The key is not set.
        """
        self.name = f"debate:{config.endpoint.model}"
        self._config = config
        self._chat = Chat(config.endpoint, cache=context.scratch)
        self._argument, self._verdict = wording(ARGUMENT), wording(VERDICT)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Compare the responses to every prompt in pairs and both orders: all pairs, or `comparisons` per prompt.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [
            comparison for group in groups for comparison in choose_comparisons(group, self._config.comparisons)
        ]
        different = [comparison for comparison in comparisons if not comparison.is_between_equals]
        cases = self._make_cases(different)
        questions = [
            self._verdict_questions(comparison, by_order) for comparison, by_order in zip(different, cases, strict=True)
        ]
        replies = iter(self._chat.ask([question for parts in questions for question in parts.values()], "verdicts"))
        verdicts = [
            conclude_equals(self.name, comparison) for comparison in comparisons if comparison.is_between_equals
        ]
        for comparison, by_order, parts in zip(different, cases, questions, strict=True):
            replies_by_part = {part: next(replies) for part in parts}
            verdicts += conclude_orders(self.name, comparison, _opinions(by_order, replies_by_part))
        return verdicts

    def _make_cases(self, comparisons: Sequence[Comparison]) -> list[dict[str, Cases]]:
        """Ask for the cases of each comparison's answers; return them by order."""
        questions = [
            Question(
                ask_about(
                    self._argument, data=pair_data(comparison.group.messages, texts), instructions={"side": side}
                ),
                {},
                prompt=format_messages(comparison.group.messages),
            )
            for comparison in comparisons
            for texts in texts_by_order(comparison).values()
            for side in SIDES
        ]
        replies = iter(self._chat.ask(questions, "cases"))
        return [
            {order: Cases(next(replies), next(replies)) for order in texts_by_order(comparison)}
            for comparison in comparisons
        ]

    def _verdict_questions(self, comparison: Comparison, cases: Mapping[str, Cases]) -> dict[str, Question]:
        """Build the questions by part; none in an order that lacks a case."""
        prompt = comparison.group.messages
        messages = {
            order: ask_about(self._verdict, data=pair_data(prompt, texts) | cases[order].data, instructions={})
            for order, texts in texts_by_order(comparison).items()
            if not cases[order].missing
        }
        return order_questions(comparison, messages, repeat_share=self._config.repeat_share)


def _opinions(cases: Mapping[str, Cases], replies: Mapping[str, Reply]) -> dict[str, Opinion]:
    """Return, by part, the opinion with the cases that it rests on."""
    opinions = {order: Opinion(None, of_order.missing) for order, of_order in cases.items()}
    for order, of_order in cases.items():
        for part in (order, REPEATED[order]):
            if part in replies:
                opinions[part] = _with_cases(read_opinion(replies[part]), of_order)
    return opinions


def _with_cases(opinion: Opinion, cases: Cases) -> Opinion:
    if opinion.score is None:
        return opinion
    data = cases.data
    return opinion._replace(
        detail=f"{opinion.detail}\n\nThe case for A: {data['case_a']}\n\nThe case for B: {data['case_b']}"
    )


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that asks the configured endpoint."""
    return DebateJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge: the model's name, and the wording and form of the questions."""
    endpoint = config.endpoint
    asked = {"model": endpoint.model, "output": endpoint.output, "max_tokens": endpoint.max_tokens, "schema": SCHEMA}
    asked |= identity_of_fields(endpoint)
    return artifacts.digest({"debate": asked, "wording": [wording(ARGUMENT), wording(VERDICT), NOTICE]})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the endpoint's section and the key, without a request.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
