"""The rule judge: an allow-listed function of the conversation and the response. Loads no machine-learning library."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from components import artifacts
from components.builtin.world import support_reply, world_digest
from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.protocol import Group, Judge, JudgeContext, Opinion, Verdict, judge_alone


class Rule(NamedTuple):
    """A scoring function and its digest."""

    score: Callable[[Messages, str], float]
    """Returns the score of a response to a conversation, higher is better; raises ValueError if it cannot judge the
    conversation."""
    digest: Callable[[], str]
    """Changes whenever the function might score anything differently."""


RULES = {"support_reply": Rule(support_reply, world_digest)}


class RuleJudge:
    """Score each response with a rule."""

    def __init__(self, config: JudgeSettings) -> None:
        """Look up the rule.

        Raises:
            ValueError: The rule does not exist.
        """
        self.name = f"rule:{config.rule}"
        self._score = _rule(config).score

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Score every response.

        Raises:
            ValueError: The rule cannot judge a conversation.
        """
        return judge_alone(
            self.name, groups, lambda distinct: [Opinion(self._score(messages, text)) for messages, text in distinct]
        )


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the rule's judge; the context is not used."""
    return RuleJudge(config)


def digest(config: JudgeSettings) -> str:
    """Return the identity of a rule: its name and the digest of its function."""
    return artifacts.digest({"rule": config.rule, "source": _rule(config).digest()})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check that the rule exists and can judge responses to these prompts.

    Raises:
        ValueError: It does not exist, or cannot judge one of them.
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
