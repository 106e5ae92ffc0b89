"""The kinds of judges: which module makes one, pins it by content and checks it."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from components.artifacts import digest
from components.config import JudgeConfig, JurorConfig
from components.data.messages import Messages
from components.judges.protocol import Judge, JudgeContext
from components.judges.reward_model_directory import reward_model_directory
from components.judges.rule import RuleJudge, check_rule, rule_digest
from components.records import JudgeRef

AnyJudge = JudgeConfig | JurorConfig
"""A judge that stands alone, or one of a jury: they read the same settings."""


class Kind(NamedTuple):
    """What a kind of judge is made, pinned and checked by."""

    load: Callable[[AnyJudge, JudgeContext], Judge]
    digest: Callable[[AnyJudge], str]
    """Identity by content: changes whenever the judge might say anything differently for other reasons than the context."""
    check: Callable[[AnyJudge, Sequence[Messages]], None]
    """Raises ValueError, before a campaign starts, when the judge cannot be loaded or cannot judge such prompts; cheap, no network."""


def _load_rule(config: AnyJudge, context: JudgeContext) -> Judge:
    return RuleJudge(config)


def _load_reward_model(config: AnyJudge, context: JudgeContext) -> Judge:
    from components.judges.reward_model import RewardModelJudge

    return RewardModelJudge(config)


def _reward_model_digest(config: AnyJudge) -> str:
    from components.judges.reward_model import reward_model_digest

    return reward_model_digest(config)


def _check_reward_model(config: AnyJudge, prompts: Sequence[Messages]) -> None:
    reward_model_directory(config)


def _load_implicit_reward(config: AnyJudge, context: JudgeContext) -> Judge:
    from components.judges.implicit_reward import ImplicitRewardJudge

    return ImplicitRewardJudge(config, context)


def _implicit_reward_digest(config: AnyJudge) -> str:
    """Its models come with the context, and nothing else changes what it says."""
    return digest({"kind": config.kind})


def _load_jury(config: AnyJudge, context: JudgeContext) -> Judge:
    from components.judges.jury import Juror, JuryJudge

    assert isinstance(config, JudgeConfig)
    return JuryJudge([Juror(partial(load_judge, juror, context), juror.weight) for juror in config.jurors], votes=config.votes)


def _jury_digest(config: AnyJudge) -> str:
    from components.judges.jury import jury_digest

    assert isinstance(config, JudgeConfig)
    return jury_digest([(judge_digest(juror), juror.weight) for juror in config.jurors], votes=config.votes)


def _check_jury(config: AnyJudge, prompts: Sequence[Messages]) -> None:
    assert isinstance(config, JudgeConfig)
    for juror in config.jurors:
        check_judge(juror, prompts)


def _nothing_to_check(config: AnyJudge, prompts: Sequence[Messages]) -> None:
    """The campaign checks its own models."""


def _of_module(module: str, load: str, digest: str, check: str) -> Kind:
    """A kind whose module, which may load a lot, is imported when one of its functions is called."""

    def deferred(name: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(import_module(module), name)(*arguments)

    return Kind(deferred(load), deferred(digest), deferred(check))


KINDS: dict[str, Kind] = {
    "rule": Kind(_load_rule, rule_digest, check_rule),
    "reward_model": Kind(_load_reward_model, _reward_model_digest, _check_reward_model),
    "implicit_reward": Kind(_load_implicit_reward, _implicit_reward_digest, _nothing_to_check),
    "self": _of_module("components.judges.self_judge", "SelfJudge", "self_digest", "check_self"),
    "constitution": _of_module("components.judges.constitution", "ConstitutionJudge", "constitution_digest", "check_constitution"),
    "debate": _of_module("components.judges.debate", "DebateJudge", "debate_digest", "check_debate"),
    "jury": Kind(_load_jury, _jury_digest, _check_jury),
    "llm": _of_module("components.judges.llm", "LlmJudge", "llm_digest", "check_llm"),
}


def load_judge(config: AnyJudge, context: JudgeContext) -> Judge:
    """Makes the configured judge.

    Raises:
        ValueError: The rule or model does not exist or cannot be used.
    """
    return KINDS[config.kind].load(config, context)


def judge_digest(config: AnyJudge) -> str:
    """Identity of a judge, by content: of a rule its name and source, of a reward model its tensors, tokenizer and template.

    Raises:
        ValueError: As `load_judge`.
    """
    return KINDS[config.kind].digest(config)


def check_judge(config: AnyJudge, prompts: Sequence[Messages] = ()) -> None:
    """Checks cheaply, before a campaign starts, that a judge can be loaded and that it judges prompts such as these.

    Raises:
        ValueError: It cannot or does not; one line with the remedy.
    """
    KINDS[config.kind].check(config, prompts)


def described(config: AnyJudge) -> str:
    """The judge in a few words, for messages and model cards."""
    if isinstance(config, JudgeConfig) and config.kind == "jury":
        return f"jury of {', '.join(described(juror) for juror in config.jurors)}"
    named = {"rule": config.rule, "reward_model": config.model}.get(config.kind, config.endpoint.model)
    return f"{config.kind}:{named}" if named else config.kind


def load_pinned_judge(pinned: JudgeRef, context: JudgeContext) -> Judge:
    """Makes a judge that must still be what it was when it was pinned.

    Raises:
        ValueError: It has changed, or as `load_judge`.
    """
    if judge_digest(pinned.config) != pinned.digest:
        raise ValueError(
            f"judge {described(pinned.config)} is not what it was when the campaign began: restore it, or begin a new campaign"
        )
    return load_judge(pinned.config, context)
