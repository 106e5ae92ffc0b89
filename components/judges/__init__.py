"""Judges: one protocol, one file a judge, and the registry that makes one from its configuration.

Importing this package loads no machine-learning library; a reward model's file is imported when one is asked for.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from components.config import JudgeConfig
from components.judges.protocol import Judge
from components.judges.reward_model_directory import reward_model_directory
from components.judges.rule import RuleJudge, check_rule, rule_digest
from components.records import JudgeRef
from components.tokens import Messages


class _Kind(NamedTuple):
    load: Callable[[JudgeConfig], Judge]
    digest: Callable[[JudgeConfig], str]
    check: Callable[[JudgeConfig, Sequence[Messages]], None]


def _load_reward_model(config: JudgeConfig) -> Judge:
    from components.judges.reward_model import RewardModelJudge

    return RewardModelJudge(config)


def _reward_model_digest(config: JudgeConfig) -> str:
    from components.judges.reward_model import reward_model_digest

    return reward_model_digest(config)


def _check_reward_model(config: JudgeConfig, prompts: Sequence[Messages]) -> None:
    reward_model_directory(config)


KINDS: dict[str, _Kind] = {
    "rule": _Kind(RuleJudge, rule_digest, check_rule),
    "reward_model": _Kind(_load_reward_model, _reward_model_digest, _check_reward_model),
}


def load_judge(config: JudgeConfig) -> Judge:
    """Makes the configured judge.

    Raises:
        ValueError: The rule or model does not exist or cannot be used.
    """
    return KINDS[config.kind].load(config)


def judge_digest(config: JudgeConfig) -> str:
    """Identity of a judge, by content: of a rule its name and source, of a reward model its tensors, tokenizer and template.

    Raises:
        ValueError: As `load_judge`.
    """
    return KINDS[config.kind].digest(config)


def check_judge(config: JudgeConfig, prompts: Sequence[Messages] = ()) -> None:
    """Checks cheaply, before a campaign starts, that a judge can be loaded and that it judges prompts such as these.

    Raises:
        ValueError: It cannot or does not; one line with the remedy.
    """
    KINDS[config.kind].check(config, prompts)


def load_pinned_judge(pinned: JudgeRef) -> Judge:
    """Makes a judge that must still be what it was when it was pinned.

    Raises:
        ValueError: It has changed, or as `load_judge`.
    """
    if judge_digest(pinned.config) != pinned.digest:
        name = pinned.config.rule if pinned.config.kind == "rule" else pinned.config.model
        raise ValueError(f"judge {name} is not what it was when the campaign began: restore it, or begin a new campaign with it")
    return load_judge(pinned.config)
