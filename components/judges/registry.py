"""The kinds of judges: the modules that create, pin by content and check each kind."""

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from components import artifacts
from components.config import JudgeConfig, JurorConfig
from components.data.messages import Messages
from components.judges.protocol import Judge, JudgeContext
from components.judges.thoughts import without_thoughts
from components.records import JudgeRef

AnyJudge = JudgeConfig | JurorConfig
"""A judge of its own, or a juror: both have the same settings."""


class Kind(NamedTuple):
    """The modules of a kind of judge, by name in `components.judges`; they are imported when needed."""

    module: str
    """Has `load(config, context) -> Judge` and `digest(config) -> str`, and may load a machine-learning library.

    The digest is the judge's identity by content: it changes if the judge might answer differently for reasons other
    than the context.
    """
    checker: str | None
    """Has `check(config, prompts)`, which raises ValueError if the judge cannot be loaded or cannot judge such prompts.

    It runs before a campaign starts: cheap, no network, no machine-learning library. None if the campaign's own checks
    suffice.
    """
    reads_columns: bool = False
    """Whether `check` also takes the names of the other columns of the prompts' rows, None if they are not known."""


KINDS: dict[str, Kind] = {
    "rule": Kind("rule", checker="rule"),
    "python": Kind("python_judge", checker="python_judge", reads_columns=True),
    "reward_model": Kind("reward_model", checker="reward_model_directory"),
    "implicit_reward": Kind("implicit_reward", checker=None),
    "inferred_reward": Kind("inferred_reward", checker="inferred_reward_directory"),
    "self": Kind("self_judge", checker="self_judge"),
    "constitution": Kind("constitution", checker="constitution"),
    "debate": Kind("debate", checker="debate"),
    "people": Kind("people", checker="people"),
    "jury": Kind("jury", checker="jury", reads_columns=True),
    "llm": Kind("llm", checker="llm"),
}


def _module(name: str) -> Any:
    return import_module(f"components.judges.{name}")


def load_judge(config: AnyJudge, context: JudgeContext) -> Judge:
    """Return the configured judge.

    Raises:
        ValueError: The rule or model does not exist or cannot be used.
    """
    judge: Judge = _module(KINDS[config.kind].module).load(config, context)
    return without_thoughts(judge, config, context)


def judge_digest(config: AnyJudge) -> str:
    """Return the identity of a judge, by content.

    For a rule: its name and source. For functions of the user: their code. For a reward model: its tensors, tokenizer
    and template.

    Raises:
        ValueError: As `load_judge`.
    """
    identity: str = _module(KINDS[config.kind].module).digest(config)
    if config.hide_thoughts:
        return artifacts.digest({"judge": identity, "without": list(config.thought_tags)})
    return identity


def check_judge(config: AnyJudge, prompts: Sequence[Messages] = (), columns: Collection[str] | None = None) -> None:
    """Check cheaply, before a campaign starts, that a judge can be loaded and can judge these prompts.

    Args:
        config: The judge.
        prompts: The prompts.
        columns: Names of the other columns of their rows; None if they are not known.

    Raises:
        ValueError: It cannot; one line with the remedy.
    """
    kind = KINDS[config.kind]
    if kind.checker is not None:
        _module(kind.checker).check(config, prompts, *([columns] if kind.reads_columns else []))


def describe_judge(config: AnyJudge) -> str:
    """Describe the judge in a few words, for messages and model cards."""
    if isinstance(config, JudgeConfig) and config.kind == "jury":
        return f"jury of {', '.join(describe_judge(juror) for juror in config.jurors)}"
    functions = ", ".join(function.function for function in config.all_functions)
    named = {
        "rule": config.rule,
        "python": functions,
        "reward_model": config.model,
        "inferred_reward": config.model,
    }.get(config.kind, config.endpoint.model)
    return f"{config.kind}:{named}" if named else config.kind


def load_pinned_judge(pinned: JudgeRef, context: JudgeContext) -> Judge:
    """Return a pinned judge, if its content is still the same.

    Raises:
        ValueError: The judge has changed, or as `load_judge`.
    """
    if judge_digest(pinned.config) != pinned.digest:
        raise ValueError(
            f"judge {describe_judge(pinned.config)} has changed since the campaign began: "
            "restore it, or start a new campaign"
        )
    return load_judge(pinned.config, context)
