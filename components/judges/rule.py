"""The rule judge: an allow-listed function of conversation and response. Loads no machine-learning library."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from components import artifacts
from components.builtin.world import support_reply, world_digest
from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, judge_alone


class Rule(NamedTuple):
    """A scoring function and what pins it."""

    score: Callable[[Messages, str], float]
    """Score of a response to a conversation, higher is better; ValueError when the conversation is not one it can
    judge."""
    digest: Callable[[], str]
    """Changes whenever the function might score anything differently."""


RULES = {"support_reply": Rule(support_reply, world_digest)}


class RuleJudge:
    """Scores responses one by one with a rule."""

    def __init__(self, config: JudgeSettings) -> None:
        """Looks the rule up.

        Raises:
            ValueError: There is no such rule.
        """
        self.name = f"rule:{config.rule}"
        self._score = _rule(config).score

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Scores every response.

        Raises:
            ValueError: A conversation is none that the rule can judge.
        """
        return judge_alone(
            self.name, groups, lambda distinct: [Opinion(self._score(messages, text)) for messages, text in distinct]
        )


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the rule's judge; the context changes nothing."""
    return RuleJudge(config)


def digest(config: JudgeSettings) -> str:
    """Return the identity of a rule: its name and what pins its function."""
    return artifacts.digest({"rule": config.rule, "source": _rule(config).digest()})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check that the rule exists and can judge responses to these prompts.

    Raises:
        ValueError: It does not, or cannot.
    """
    rule = _rule(config)
    for messages in prompts:
        rule.score(messages, "")


def _rule(config: JudgeSettings) -> Rule:
    if config.rule not in RULES:
        raise ValueError(
            f"judge.rule {config.rule} is not a rule: use {', '.join(sorted(RULES))}, or kind: reward_model"
        )
    return RULES[config.rule]
