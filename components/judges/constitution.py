"""The constitution judge: a chat model is asked principle by principle, and the principles vote.

For a prompt with n responses and k principles it asks k (2 p + n) questions, p being the number of pairs that it
compares (all n (n - 1) / 2 of them, or `comparisons`): for each principle which response of a pair keeps it better, in
both orders, and of each response whether it violates it. `repeat_share` adds its share of the 2 k p. Nobody is asked
about equal texts.

A pair's conclusion is the mean, by weight, of what the principles concluded on it. A principle without a valid
conclusion has no vote; where such principles hold half of the weight or more, the conclusion is invalid.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components import artifacts
from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.chat.client import Chat, Question, Reply
from components.judges.chat.credentials import check_endpoint
from components.judges.chat.quoting import NOTICE
from components.judges.comparisons import (
    SCHEMA,
    Comparison,
    chosen_comparisons,
    conclude_equals,
    conclude_orders,
    order_questions,
    read_opinion,
    shown,
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
    """Compares the responses to each prompt by each principle, and checks each response against each principle."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Reads the principles and finds the key.

        Raises:
            ValueError: One of them is not there.
        """
        self.name = f"constitution:{Path(config.principles).stem}"
        self._config = config
        self._principles = load_principles(config.principles)
        self._chat = Chat(config.endpoint, cache=context.scratch)
        self._pair, self._response = wording(PAIR), wording(RESPONSE)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """For each pair what each principle says of it and the conclusion, then whether each response keeps each principle.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [
            comparison for group in groups for comparison in chosen_comparisons(group, self._config.comparisons)
        ]
        return [*self._compare(comparisons), *self._check(groups)]

    def _compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        different = [comparison for comparison in comparisons if not comparison.is_between_equals]
        asked = [
            (comparison, [self._pair_questions(comparison, principle) for principle in self._principles])
            for comparison in different
        ]
        replies = iter(
            self._chat.ask(
                [question for _, several in asked for parts in several for question in parts.values()], "verdicts"
            )
        )
        verdicts = [
            conclude_equals(self.name, comparison) for comparison in comparisons if comparison.is_between_equals
        ]
        for comparison, several in asked:
            opinions = [{part: read_opinion(next(replies)) for part in parts} for parts in several]
            by_principle = [conclude_orders(self.name, comparison, said) for said in opinions]
            for principle, said in zip(self._principles, by_principle, strict=True):
                verdicts += [as_part(verdict, f"{PRINCIPLE}{principle.name}") for verdict in said]
            vote = weighted_vote(self._principles, [said[-1].score for said in by_principle])
            verdicts.append(
                make_verdict(self.name, comparison.group, comparison.first, vote, opponent_id=comparison.second)
            )
        return verdicts

    def _pair_questions(self, comparison: Comparison, principle: Principle) -> dict[str, Question]:
        prompt, told = comparison.group.messages, {"principle": principle.text}
        messages = {
            order: ask_about(self._pair, data=pair_data(prompt, texts), told=told)
            for order, texts in shown(comparison).items()
        }
        return order_questions(comparison, messages, repeat_share=self._config.repeat_share)

    def _check(self, groups: Sequence[Group]) -> list[Verdict]:
        asked = [
            (group, number, text, principle)
            for group in groups
            for number, text in group.responses
            for principle in self._principles
        ]
        questions = [self._violation_question(group.messages, text, principle) for group, _, text, principle in asked]
        return [
            as_part(make_verdict(self.name, group, number, _kept(reply), part=KEPT), f"{PRINCIPLE}{principle.name}")
            for (group, number, _, principle), reply in zip(asked, self._chat.ask(questions, "violations"), strict=True)
        ]

    def _violation_question(self, messages: Messages, text: str, principle: Principle) -> Question:
        data = {"conversation": as_text(messages), "answer": text}
        return Question(ask_about(self._response, data=data, told={"principle": principle.text}), VIOLATION)


def weighted_vote(principles: Sequence[Principle], votes: Sequence[float | None]) -> Opinion:
    """The principles' mean vote by weight.

    Args:
        principles: Their weights count.
        votes: For each the probability that the first response keeps it better, in [0, 1]; None where it has no valid
            conclusion.

    Returns:
        The mean over the valid votes; no score where half of the weight or more has none.
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

    The model's name, the principles, and the wording and form of its questions, for revisions too.
    """
    endpoint = config.endpoint
    asked = {
        "model": endpoint.model,
        "output": endpoint.output,
        "max_tokens": endpoint.max_tokens,
        "schemas": [SCHEMA, VIOLATION],
    }
    principles = [principle.model_dump() for principle in load_principles(config.principles)]
    return artifacts.digest(
        {"constitution": asked, "principles": principles, "wording": [NOTICE, *map(wording, WORDINGS)]}
    )


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the endpoint's section, the key and the principles, and asks nobody.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
    load_principles(config.principles)
