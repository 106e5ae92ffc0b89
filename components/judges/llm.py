"""The chat model as judge: two answers side by side, in both orders, a verdict by JSON schema. Loads no machine-learning library."""

from collections.abc import Sequence
from typing import Any

from components.artifacts import digest
from components.config import JudgeSettings
from components.judges.chat.check import check_endpoint
from components.judges.chat.client import Chat, Question, Reply, Usage
from components.judges.chat.quoting import NOTICE
from components.judges.pairing import Comparison, chosen_comparisons, is_repeated
from components.judges.protocol import BACKWARD, FORWARD, Group, JudgeContext, Opinion, Verdict, conclude_pair, make_verdict
from components.judges.templates import check_template, read_template, render
from components.tokens import Messages

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

    @property
    def usage(self) -> Usage:
        """What all calls came to that the context's scratch directory knows of; known after `judge`."""
        return self._chat.usage

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Compares all pairs of every prompt's responses, or as many as the configuration says, in both orders.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        comparisons = [comparison for group in groups for comparison in chosen_comparisons(group, self._config.comparisons)]
        asked = [(comparison, self._questions(comparison)) for comparison in comparisons]
        replies = iter(self._chat.ask([question for _, parts in asked for question in parts.values()], "verdicts"))
        verdicts: list[Verdict] = []
        for comparison, parts in asked:
            verdicts += self._verdicts(comparison, {part: _opinion(next(replies)) for part in parts})
        return verdicts

    def _questions(self, comparison: Comparison) -> dict[str, Question]:
        """What is asked on a comparison, by the part that the verdict gets; nothing on equal texts."""
        if comparison.is_between_equals:
            return {}
        first, second = comparison.texts
        shown = {FORWARD: (first, second), BACKWARD: (second, first)}
        messages = {order: self._messages(comparison.group, answers) for order, answers in shown.items()}
        questions = {order: Question(messages[order], SCHEMA) for order in messages}
        if is_repeated(comparison, self._config.repeat_share):
            questions |= {REPEATED[order]: Question(messages[order], SCHEMA, repeat=1) for order in messages}
        return questions

    def _messages(self, group: Group, answers: tuple[str, str]) -> Messages:
        return [{"role": "user", "content": render(self._template, messages=group.messages, answers=answers)}]

    def _verdicts(self, comparison: Comparison, opinions: dict[str, Opinion]) -> list[Verdict]:
        """The conclusion, after all that was said on the way to it."""
        group, first, second = comparison
        if not opinions:
            return [make_verdict(self.name, group, first, Opinion(0.5, "the texts are equal"), opponent_id=second)]
        shown = {FORWARD: (first, second), BACKWARD: (second, first)}
        repeats = [
            make_verdict(self.name, group, shown[order][0], opinions[part], opponent_id=shown[order][1], part=part)
            for order, part in REPEATED.items()
            if part in opinions
        ]
        return [*repeats, *conclude_pair(self.name, group, first, second, forward=opinions[FORWARD], backward=opinions[BACKWARD])]


def _opinion(reply: Reply) -> Opinion:
    if reply.value is None:
        return Opinion(None, reply.detail)
    return Opinion(SCORES[reply.value["verdict"]], reply.value["reason"])


def llm_digest(config: JudgeSettings) -> str:
    """Identity of the judge: the model's name, the wording and form of what it is asked, but not where and how fast."""
    endpoint = config.endpoint
    asked = {"model": endpoint.model, "output": endpoint.output, "max_tokens": endpoint.max_tokens, "schema": SCHEMA}
    return digest({"llm": asked, "template": read_template(config.prompt), "notice": NOTICE})


def check_llm(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Looks at the endpoint's section, the key and the template, and asks nobody.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    check_endpoint(config.endpoint)
    check_template(config.prompt)
