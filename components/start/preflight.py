"""Checks of all user input, before the first file is written. Loads torch only to check an adapter."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from components.config import (
    BUILTIN,
    CampaignConfig,
    CampaignSftConfig,
    LoraConfig,
    PreferencesConfig,
    RegressionConfig,
    SoftPromptConfig,
)
from components.data.demonstrations import read_demonstrations
from components.data.draws import check_draw
from components.data.preference_file import load_seed_pairs
from components.data.prompts import PromptSplit, split_prompts
from components.functions.source import code_digest
from components.functions.violations import check_constraint
from components.judges.registry import check_judge
from components.models import vllm
from components.models.directory import check_model_directory, check_policy_directory, check_quantization
from components.records import DemonstrationSource
from components.runtime.launchers.registry import check_launcher
from components.start.demonstrations import read_source


class Inputs(NamedTuple):
    """The campaign's prompts, and the content digests of its other inputs."""

    prompts: PromptSplit
    seed_pairs_digest: str | None
    constraint_digest: str | None
    """Digest of the code of `constraints.function`; None without such a rule."""
    regression_digest: str | None
    """Digest of the tasks of `regression`; None without one."""
    demonstrations_digest: str | None
    """Content digest of `sft.demonstrations`; None without."""
    demonstrations: DemonstrationSource | None
    """What rounds build pairs from, with its content digest; None if a judge makes them."""

    @property
    def prompts_digest(self) -> str:
        """Content digest of the prompts."""
        return self.prompts.digest


def check_inputs(config: CampaignConfig, *, held_out_before: Collection[str] = ()) -> Inputs:
    """Read the prompts and seed pairs, and check the judges and the local models.

    Args:
        config: The campaign's configuration.
        held_out_before: As of `split_prompts`.

    Raises:
        ValueError: An input cannot be used; one line that names it and the remedy.
    """
    check_launcher(config.launcher)
    check_quantization(config.policy.quantization)
    if config.generation.engine == "vllm":
        vllm.interpreter()
    model = Path(config.policy.model).expanduser()
    if config.policy.model != BUILTIN and (model.is_dir() or config.policy.model.startswith((".", "/", "~"))):
        check_trainable(model, config.lora, config.soft_prompt)
    prompts = split_prompts(
        config.prompts,
        config.policy.system_prompt,
        carries_columns=config.reads_columns,
        held_out_before=held_out_before,
    )
    check_draw(prompts.train, config.prompts)
    train, held_out = ([prompt.messages for prompt in side] for side in (prompts.train, prompts.held_out))
    train_columns, held_out_columns = ({name for prompt in side for name in prompt.columns} for side in prompts.sides)
    check_judge(config.judge, train, train_columns)
    check_judge(config.evaluation_judge, held_out, held_out_columns)
    if config.holdout_judge:
        check_judge(config.holdout_judge, held_out, held_out_columns)
    if config.active.budget:
        check_judge(config.active.judge, train, train_columns)
    for columns in (train_columns, held_out_columns):
        check_constraint(config.constraints, columns, rows="the prompts' rows")
    if config.preferences.seed_pairs:
        check_constraint(config.constraints, (), rows="the pairs of preferences.seed_pairs")
    if config.preferences.demonstrations:
        check_constraint(config.constraints, (), rows="the demonstrations of preferences.demonstrations")
    function = config.constraints.function
    return Inputs(
        prompts=prompts,
        seed_pairs_digest=_check_seeds(config) if config.preferences.seed_pairs else None,
        constraint_digest=code_digest(function) if function else None,
        regression_digest=_check_regression(config.regression) if config.regression.tasks else None,
        demonstrations_digest=_check_demonstrations(config.sft) if config.sft.demonstrations else None,
        demonstrations=_check_demonstrated(config, prompts) if config.preferences.demonstrations else None,
    )


def check_trainable(model: Path, lora: LoraConfig, soft_prompt: SoftPromptConfig) -> None:
    """Check, without loading weights, that what the configuration trains can be trained on the model of a directory.

    Raises:
        ValueError: The model is unusable, its own weights are quantized and would be trained, or the adapter does not
            fit it; one line with the remedy.
    """
    check_model_directory(model)
    trains_adapter = lora.rank > 0 or soft_prompt.kind != "none"
    check_policy_directory(model, trains_adapter=trains_adapter)
    if trains_adapter:
        from components.models.adapter_fit import check_adapter_fits

        check_adapter_fits(model, lora, soft_prompt)


def check_revisions(preferences: PreferencesConfig, reason: str | None) -> None:
    """Refuse pairs by revision if the chat template cannot write a revision as an answer of the model.

    Args:
        preferences: The configuration of the pairs.
        reason: What round 0 published as `unrenderable`; None if revisions can be written.

    Raises:
        ValueError: One line with the remedy.
    """
    if preferences.pairs == "revised" and reason is not None:
        raise ValueError(
            f"preferences.pairs = revised needs a chat template that takes answers from outside ({reason}): set "
            "policy.chat_template_arguments (such as enable_thinking: false), or build pairs in another way"
        )


def _check_regression(config: RegressionConfig) -> str | None:
    """Check the tasks of the regression suite, and return their digest."""
    # Loads scipy and jsonschema, and the harness if a task of it is named.
    from components.regression.suite import suite_digest

    return suite_digest(config)


def _check_demonstrations(sft: CampaignSftConfig) -> str:
    """Read the demonstrations, and return their digest."""
    return read_demonstrations(sft.demonstrations, split=sft.demonstrations_split).digest


def _check_demonstrated(config: CampaignConfig, prompts: PromptSplit) -> DemonstrationSource:
    """Read the demonstrations from which rounds build pairs, and return them with their digest."""
    preferences = config.preferences
    source = DemonstrationSource(
        source=preferences.demonstrations,
        split=preferences.demonstrations_split,
        revision=preferences.demonstrations_revision,
        digest="",
    )
    read = read_source(
        source, prompts, system_prompt=config.policy.system_prompt, held_out_by=config.prompts.held_out_by
    )
    return source.model_copy(update={"digest": read.digest})


def _check_seeds(config: CampaignConfig) -> str:
    """Read the preference data set that seeds round 1, and return its digest."""
    preferences = config.preferences
    seeds = load_seed_pairs(
        preferences.seed_pairs, split=preferences.seed_pairs_split, revision=preferences.seed_pairs_revision
    )
    if config.training.takes == "pairs" and (single := sum(pair.is_single for pair in seeds.pairs)):
        raise ValueError(
            f"preferences.seed_pairs {config.preferences.seed_pairs} has {single} single responses, "
            f"but training.loss {config.training.loss} needs pairs: set `training: {{loss: kto}}`"
        )
    return seeds.digest
