"""The chat model as judge: it compares two answers in both orders and replies by a JSON schema.

Loads no machine-learning library.
"""

from collections.abc import Sequence

from components import artifacts
from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.chat.client import Chat, Question
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
from components.judges.protocol import Group, Judge, JudgeContext, Verdict
from components.judges.wording import check_template, read_template, render


class LlmJudge:
    """Compare the responses to a prompt with each other."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Read the template and the API key.

        Raises:
            ValueError: The template cannot be read, or the key is not set.
        """
        self.name = f"llm:{config.endpoint.model}"
        self._config = config
        self._template = read_template(config.prompt)
        self._chat = Chat(config.endpoint, cache=context.scratch)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Compare the responses to every prompt in pairs and both orders: all pairs, or `comparisons` per prompt.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [
            comparison for group in groups for comparison in choose_comparisons(group, self._config.comparisons)
        ]
        questions = [(comparison, self._questions(comparison)) for comparison in comparisons]
        replies = iter(self._chat.ask([question for _, parts in questions for question in parts.values()], "verdicts"))
        verdicts: list[Verdict] = []
        for comparison, parts in questions:
            opinions = {part: read_opinion(next(replies)) for part in parts}
            verdicts += (
                conclude_orders(self.name, comparison, opinions)
                if opinions
                else [conclude_equals(self.name, comparison)]
            )
        return verdicts

    def _questions(self, comparison: Comparison) -> dict[str, Question]:
        """Build the questions about a comparison, by the part of the verdict; none about equal texts."""
        if comparison.is_between_equals:
            return {}
        messages = {
            order: self._messages(comparison.group, answers) for order, answers in texts_by_order(comparison).items()
        }
        return order_questions(comparison, messages, repeat_share=self._config.repeat_share)

    def _messages(self, group: Group, answers: tuple[str, str]) -> Messages:
        return [{"role": "user", "content": render(self._template, messages=group.messages, answers=answers)}]


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that asks the configured endpoint."""
    return LlmJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge.

    It covers the model's name and the wording and form of the questions, but not the address or the rate limits.
    """
    endpoint = config.endpoint
    asked = {"model": endpoint.model, "output": endpoint.output, "max_tokens": endpoint.max_tokens, "schema": SCHEMA}
    asked |= identity_of_fields(endpoint)
    return artifacts.digest({"llm": asked, "template": read_template(config.prompt), "notice": NOTICE})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the endpoint's section, the key and the template, without a request.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
    check_template(config.prompt)
