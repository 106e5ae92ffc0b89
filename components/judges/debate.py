"""The debate judge.

A case is made for each answer before one of them wins (Irving, Christiano and Amodei 2018, arXiv 1805.00899).

In each order of a comparison it asks three questions of one chat model: for the case for the first answer, for the case
for the second, and for the verdict, given both. That is six questions a comparison, and two more where `repeat_share`
asks for the verdicts again. Both cases are kept in the detail of the verdict that followed from them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components import artifacts
from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.chat.client import Chat, Question, Reply
from components.judges.chat.credentials import check_endpoint
from components.judges.chat.quoting import NOTICE
from components.judges.comparisons import (
    REPEATED,
    SCHEMA,
    Comparison,
    chosen_comparisons,
    conclude_equals,
    conclude_orders,
    order_questions,
    read_opinion,
    shown,
)
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict
from components.judges.wording import ask_about, pair_data, wording

ARGUMENT, VERDICT = "debate_argument", "debate_verdict"
SIDES = ("A", "B")


class Cases(NamedTuple):
    """What was said for the answer that is shown first, and for the other one."""

    first: Reply
    second: Reply

    @property
    def missing(self) -> str:
        """Why there is no debate; empty where both cases were made."""
        sides = [(side, reply.detail) for side, reply in zip(SIDES, self, strict=True) if reply.value is None]
        return "; ".join(f"no case for answer {side}: {detail}" for side, detail in sides)

    @property
    def data(self) -> dict[str, str]:
        """Both cases, where both were made, as the data of the question that follows."""
        assert self.first.value is not None, self.missing
        assert self.second.value is not None, self.missing
        return {"case_a": self.first.value["text"], "case_b": self.second.value["text"]}


class DebateJudge:
    """Compares the responses to a prompt by the better case."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Finds the key.

        Raises:
            ValueError: It is not there.
        """
        self.name = f"debate:{config.endpoint.model}"
        self._config = config
        self._chat = Chat(config.endpoint, cache=context.scratch)
        self._argument, self._verdict = wording(ARGUMENT), wording(VERDICT)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Compares all pairs of every prompt's responses, or as many as the configuration says, in both orders.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [
            comparison for group in groups for comparison in chosen_comparisons(group, self._config.comparisons)
        ]
        different = [comparison for comparison in comparisons if not comparison.is_between_equals]
        cases = self._make_cases(different)
        asked = [self._verdict_questions(comparison, made) for comparison, made in zip(different, cases, strict=True)]
        replies = iter(self._chat.ask([question for parts in asked for question in parts.values()], "verdicts"))
        verdicts = [
            conclude_equals(self.name, comparison) for comparison in comparisons if comparison.is_between_equals
        ]
        for comparison, made, parts in zip(different, cases, asked, strict=True):
            said = {part: next(replies) for part in parts}
            verdicts += conclude_orders(self.name, comparison, _opinions(made, said))
        return verdicts

    def _make_cases(self, comparisons: Sequence[Comparison]) -> list[dict[str, Cases]]:
        """For each comparison, by order, the cases for its answers."""
        questions = [
            Question(
                ask_about(self._argument, data=pair_data(comparison.group.messages, texts), told={"side": side}), {}
            )
            for comparison in comparisons
            for texts in shown(comparison).values()
            for side in SIDES
        ]
        replies = iter(self._chat.ask(questions, "cases"))
        return [
            {order: Cases(next(replies), next(replies)) for order in shown(comparison)} for comparison in comparisons
        ]

    def _verdict_questions(self, comparison: Comparison, cases: Mapping[str, Cases]) -> dict[str, Question]:
        """What is asked by part; nothing in an order that lacks a case."""
        prompt = comparison.group.messages
        messages = {
            order: ask_about(self._verdict, data=pair_data(prompt, texts) | cases[order].data, told={})
            for order, texts in shown(comparison).items()
            if not cases[order].missing
        }
        return order_questions(comparison, messages, repeat_share=self._config.repeat_share)


def _opinions(cases: Mapping[str, Cases], replies: Mapping[str, Reply]) -> dict[str, Opinion]:
    """By part, what was decided and the cases that it was decided on."""
    found = {order: Opinion(None, made.missing) for order, made in cases.items()}
    for order, made in cases.items():
        for part in (order, REPEATED[order]):
            if part in replies:
                found[part] = _with_cases(read_opinion(replies[part]), made)
    return found


def _with_cases(opinion: Opinion, made: Cases) -> Opinion:
    if opinion.score is None:
        return opinion
    heard = made.data
    return opinion._replace(
        detail=f"{opinion.detail}\n\nThe case for A: {heard['case_a']}\n\nThe case for B: {heard['case_b']}"
    )


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that asks the configured endpoint."""
    return DebateJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge: the model's name, and the wording and form of what it is asked."""
    endpoint = config.endpoint
    asked = {"model": endpoint.model, "output": endpoint.output, "max_tokens": endpoint.max_tokens, "schema": SCHEMA}
    return artifacts.digest({"debate": asked, "wording": [wording(ARGUMENT), wording(VERDICT), NOTICE]})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the endpoint's section and the key, and asks nobody.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
