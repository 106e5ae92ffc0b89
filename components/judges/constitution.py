"""The constitution judge: it asks a chat model about each principle, and the principles vote.

For a prompt with n responses and k principles it asks k (2 p + n) questions, where p is the number of compared pairs
(all n (n - 1) / 2 of them, or `comparisons`). For each principle it asks which response of a pair keeps it better, in
both orders, and whether each response violates it. `repeat_share` adds its share of the 2 k p. Equal texts are not
compared.

A pair's conclusion is the weighted mean of the principles' conclusions on it. A principle without a valid conclusion
has no vote; if such principles hold half of the weight or more, the conclusion is invalid.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components import artifacts
from components.config import JudgeSettings
from components.data.messages import Messages, format_messages
from components.judges.chat.client import Chat, Question, Reply
from components.judges.chat.credentials import check_endpoint
from components.judges.chat.quoting import NOTICE
from components.judges.chat.request import identity_of_fields
from components.judges.comparisons import (
    SCHEMA,
    Comparison,
    choose_comparisons,
    conclude_equals,
    conclude_orders,
    order_questions,
    read_opinion,
    texts_by_order,
)
from components.judges.principles import Principle, load_principles
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, as_part, make_verdict
from components.judges.revision import CRITIQUE, REVISION
from components.judges.violations import KEPT, PRINCIPLE
from components.judges.wording import as_text, ask_about, pair_data, wording

PAIR, RESPONSE = "principle_pair", "principle_response"
WORDINGS = (PAIR, RESPONSE, CRITIQUE, REVISION)
VIOLATION: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "violates": {"type": "boolean"}},
    "required": ["reason", "violates"],
}


class ConstitutionJudge:
    """Compare the responses to each prompt by each principle, and check each response against each principle."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Read the principles and the API key.

        Raises:
            ValueError: The principles are not valid, or the key is not set.
        """
        self.name = f"constitution:{Path(config.principles).stem}"
        self._config = config
        self._principles = load_principles(config.principles)
        self._chat = Chat(config.endpoint, cache=context.scratch)
        self._pair, self._response = wording(PAIR), wording(RESPONSE)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Return each pair's verdicts by principle and its conclusion, then whether each response keeps each principle.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [
            comparison for group in groups for comparison in choose_comparisons(group, self._config.comparisons)
        ]
        return [*self._compare(comparisons), *self._check(groups)]

    def _compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        different = [comparison for comparison in comparisons if not comparison.is_between_equals]
        questions = [
            (comparison, [self._pair_questions(comparison, principle) for principle in self._principles])
            for comparison in different
        ]
        replies = iter(
            self._chat.ask(
                [question for _, of_principles in questions for parts in of_principles for question in parts.values()],
                "verdicts",
            )
        )
        verdicts = [
            conclude_equals(self.name, comparison) for comparison in comparisons if comparison.is_between_equals
        ]
        for comparison, of_principles in questions:
            opinions = [{part: read_opinion(next(replies)) for part in parts} for parts in of_principles]
            by_principle = [conclude_orders(self.name, comparison, of_principle) for of_principle in opinions]
            for principle, of_principle in zip(self._principles, by_principle, strict=True):
                verdicts += [as_part(verdict, f"{PRINCIPLE}{principle.name}") for verdict in of_principle]
            vote = weighted_vote(self._principles, [of_principle[-1].score for of_principle in by_principle])
            verdicts.append(
                make_verdict(self.name, comparison.group, comparison.first, vote, opponent_id=comparison.second)
            )
        return verdicts

    def _pair_questions(self, comparison: Comparison, principle: Principle) -> dict[str, Question]:
        prompt, instructions = comparison.group.messages, {"principle": principle.text}
        messages = {
            order: ask_about(self._pair, data=pair_data(prompt, texts), instructions=instructions)
            for order, texts in texts_by_order(comparison).items()
        }
        return order_questions(comparison, messages, repeat_share=self._config.repeat_share)

    def _check(self, groups: Sequence[Group]) -> list[Verdict]:
        checks = [
            (group, number, text, principle)
            for group in groups
            for number, text in group.responses
            for principle in self._principles
        ]
        questions = [self._violation_question(group.messages, text, principle) for group, _, text, principle in checks]
        return [
            as_part(make_verdict(self.name, group, number, _kept(reply), part=KEPT), f"{PRINCIPLE}{principle.name}")
            for (group, number, _, principle), reply in zip(
                checks, self._chat.ask(questions, "violations"), strict=True
            )
        ]

    def _violation_question(self, messages: Messages, text: str, principle: Principle) -> Question:
        data = {"conversation": as_text(messages), "answer": text}
        asked = ask_about(self._response, data=data, instructions={"principle": principle.text})
        return Question(asked, VIOLATION, prompt=format_messages(messages))


def weighted_vote(principles: Sequence[Principle], votes: Sequence[float | None]) -> Opinion:
    """Return the weighted mean of the principles' votes.

    Args:
        principles: The principles, with their weights.
        votes: For each principle, the probability that the first response keeps it better, in [0, 1]; None if the
            principle has no valid conclusion.

    Returns:
        The mean over the valid votes; no score if principles without a valid vote hold half of the weight or more.
    """
    valid = [(principle.weight, vote) for principle, vote in zip(principles, votes, strict=True) if vote is not None]
    missing = [principle for principle, vote in zip(principles, votes, strict=True) if vote is None]
    names = ", ".join(principle.name for principle in missing)
    weight = math.fsum(weight for weight, _ in valid)
    if weight <= math.fsum(principle.weight for principle in missing):
        return Opinion(None, f"no valid verdict by {names}")
    return Opinion(math.fsum(weight * vote for weight, vote in valid) / weight, f"without {names}" if names else "")


def _kept(reply: Reply) -> Opinion:
    if reply.value is None:
        return Opinion(None, reply.detail)
    return Opinion(0.0 if reply.value["violates"] else 1.0, reply.value["reason"])


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that asks the configured endpoint."""
    return ConstitutionJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge.

    It covers the model's name, the principles, and the wording and form of all questions, those for revisions included.
    """
    endpoint = config.endpoint
    asked = {
        "model": endpoint.model,
        "output": endpoint.output,
        "max_tokens": endpoint.max_tokens,
        "schemas": [SCHEMA, VIOLATION],
    } | identity_of_fields(endpoint)
    principles = [principle.model_dump() for principle in load_principles(config.principles)]
    return artifacts.digest(
        {"constitution": asked, "principles": principles, "wording": [NOTICE, *map(wording, WORDINGS)]}
    )


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the endpoint's section, the key and the principles, without a request.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
    load_principles(config.principles)
