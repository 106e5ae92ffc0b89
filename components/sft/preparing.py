"""Check everything that a model is trained from, before the first file is written."""

from collections.abc import Collection
from datetime import date
from pathlib import Path

from transformers import AutoConfig

from components.artifacts import MANIFEST
from components.builtin.starter import starter_model
from components.config import BUILTIN, CampaignSftConfig, LoraConfig, PolicyConfig, SftConfig, SoftPromptConfig
from components.config.sft import SftSettings
from components.data.demonstrations import for_policy, read_demonstrations
from components.judges.reward_model_directory import longest_read
from components.models.adapter_fit import check_adapter_fits
from components.models.directory import check_model_directory, check_policy_directory, locate_model
from components.models.loading import start_ref
from components.models.tokens import ChatTokenizer, load_chat
from components.records import Artifact, ModelRef, SftRequest
from components.sft.rows import prepare_rows


def check_place(directory: Path) -> None:
    """Check that a model may be written into a folder.

    Raises:
        ValueError: It is a file, or holds an `sft` that was not made here and would be replaced.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file: name a folder, in which sft/ appears")
    target = directory / "sft"
    if target.exists() and not (target / MANIFEST).is_file():
        raise ValueError(f"{target} exists and was not made by this command: name another folder")


def base_ref(model: str, *, revision: str, lora: LoraConfig) -> ModelRef:
    """Find the model that the training starts from.

    A hub model is downloaded, and the built-in starter trained, once.

    Raises:
        ValueError: It is missing, incomplete, or not a causal language model that can be trained as configured.
    """
    path = starter_model() if model == BUILTIN else locate_model(model, revision)
    check_model_directory(path)
    check_policy_directory(path, trains_adapter=lora.rank > 0)
    if lora.rank:
        check_adapter_fits(path, lora, SoftPromptConfig())
    return start_ref(path, revision=revision if model != BUILTIN else "main")


def load_chat_of(base: ModelRef, settings: SftConfig) -> ChatTokenizer:
    """Load the base's tokenizer with what its chat template reads."""
    limits = PolicyConfig(
        chat_template_arguments=settings.chat_template_arguments, template_date=settings.template_date
    )
    return load_chat(base, limits)


def prepare_request(
    source: str,
    *,
    split: str,
    base: str,
    revision: str,
    settings: SftConfig,
    system_prompt: str,
    held_out: Collection[str],
) -> SftRequest:
    """Pin demonstrations and base model by their content, after the checks that the training makes.

    Args:
        source: Source of the demonstrations, as for `read_demonstrations`.
        split: Split of a data set with splits.
        base: Directory, hub name or `builtin`.
        revision: Hub revision of the base.
        settings: Settings of the training.
        system_prompt: System message in front of every conversation that has none of its own; empty adds none.
        held_out: Content keys of prompts whose answers must not be trained on.

    Raises:
        ValueError: Something cannot be used; one line that names it and the remedy.
    """
    read = read_demonstrations(source, split=split)
    model = base_ref(base, revision=revision, lora=settings.lora)
    chat = load_chat_of(model, settings)
    if chat.writes_date and not settings.template_date:
        # A training that is continued on another day renders the same conversations.
        settings = settings.model_copy(update={"template_date": date.today().isoformat()})
        chat = load_chat_of(model, settings)
    longest = longest_read(AutoConfig.from_pretrained(model.base, trust_remote_code=False), settings.max_tokens)
    used = for_policy(read, system_prompt=system_prompt, held_out=held_out)
    prepare_rows(used, chat, settings, max_tokens=longest)
    return SftRequest(
        base=model,
        demonstrations=Artifact(path=Path(source), digest=read.digest),
        split=split,
        settings=settings,
        system_prompt=system_prompt,
        held_out=tuple(sorted(held_out)),
    )


def campaign_request(
    sft: CampaignSftConfig, policy: PolicyConfig, *, held_out: Collection[str], template_date: str, seed: int
) -> SftRequest:
    """Return the request by which a campaign's start model is trained on demonstrations.

    Args:
        sft: The campaign's section.
        policy: The base, its precision, and what its chat template reads.
        held_out: Content keys of the held-out prompts, without the system prompt.
        template_date: Date that the campaign's prompts tell already; empty if they tell none yet.
        seed: The campaign's seed.

    Raises:
        ValueError: As `prepare_request`.
    """
    values = {name: getattr(sft, name) for name in SftSettings.model_fields}
    settings = SftConfig(
        **values,
        dtype=policy.dtype,
        chat_template_arguments=policy.chat_template_arguments,
        template_date=policy.template_date or template_date,
        seed=seed,
    )
    return prepare_request(
        sft.demonstrations,
        split=sft.demonstrations_split,
        base=policy.model,
        revision=policy.revision,
        settings=settings,
        system_prompt=policy.system_prompt,
        held_out=held_out,
    )
