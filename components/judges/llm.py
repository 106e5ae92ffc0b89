"""The chat model as judge: two answers side by side, in both orders, a verdict by JSON schema.

Loads no machine-learning library.
"""

from collections.abc import Sequence

from components import artifacts
from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.chat.client import Chat, Question
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
from components.judges.protocol import Group, Judge, JudgeContext, Verdict
from components.judges.wording import check_template, read_template, render


class LlmJudge:
    """Compares the responses to a prompt with each other."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Reads the template and finds the key.

        Raises:
            ValueError: One of them is not there.
        """
        self.name = f"llm:{config.endpoint.model}"
        self._config = config
        self._template = read_template(config.prompt)
        self._chat = Chat(config.endpoint, cache=context.scratch)

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Compares all pairs of every prompt's responses, or as many as the configuration says, in both orders.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [
            comparison for group in groups for comparison in chosen_comparisons(group, self._config.comparisons)
        ]
        asked = [(comparison, self._questions(comparison)) for comparison in comparisons]
        replies = iter(self._chat.ask([question for _, parts in asked for question in parts.values()], "verdicts"))
        verdicts: list[Verdict] = []
        for comparison, parts in asked:
            said = {part: read_opinion(next(replies)) for part in parts}
            verdicts += (
                conclude_orders(self.name, comparison, said) if said else [conclude_equals(self.name, comparison)]
            )
        return verdicts

    def _questions(self, comparison: Comparison) -> dict[str, Question]:
        """What is asked on a comparison, by the part that the verdict gets; nothing on equal texts."""
        if comparison.is_between_equals:
            return {}
        messages = {order: self._messages(comparison.group, answers) for order, answers in shown(comparison).items()}
        return order_questions(comparison, messages, repeat_share=self._config.repeat_share)

    def _messages(self, group: Group, answers: tuple[str, str]) -> Messages:
        return [{"role": "user", "content": render(self._template, messages=group.messages, answers=answers)}]


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge that asks the configured endpoint."""
    return LlmJudge(config, context)


def digest(config: JudgeSettings) -> str:
    """Return the identity of the judge.

    The model's name, the wording and form of what it is asked, but not where and how fast.
    """
    endpoint = config.endpoint
    asked = {"model": endpoint.model, "output": endpoint.output, "max_tokens": endpoint.max_tokens, "schema": SCHEMA}
    return artifacts.digest({"llm": asked, "template": read_template(config.prompt), "notice": NOTICE})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check the endpoint's section, the key and the template, and asks nobody.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
    check_template(config.prompt)
