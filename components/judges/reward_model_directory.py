"""A reward model on disk: where it is, whether it can judge, and how it reads a conversation. Loads no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import JudgeSettings
from components.data.messages import Messages
from components.models.directory import check_model_directory, locate_model


def reward_model_directory(config: JudgeSettings) -> Path:
    """Returns the checked directory of the configured reward model; a hub model is downloaded once.

    Raises:
        ValueError: It is missing or incomplete, holds pickled weights only, or is no classifier with one output.
    """
    path = locate_model(config.model, config.revision)
    check_model_directory(path)
    settings: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    architectures = settings.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        found = ", ".join(architectures) or "no architecture"
        raise ValueError(
            f"judge.model {config.model} is no reward model ({found}): name a ...ForSequenceClassification model"
        )
    labels = len(settings["id2label"]) if "id2label" in settings else settings.get("num_labels", 2)
    if labels != 1:
        raise ValueError(f"judge.model {config.model} has {labels} outputs: a reward model has one (num_labels=1)")
    return path


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check that the configured reward model is there and can judge.

    Raises:
        ValueError: As `reward_model_directory`.
    """
    reward_model_directory(config)


def conversation_ids(tokenizer: Any, messages: Messages, text: str) -> list[int]:
    """Token ids of a prompt with a response in the model's chat template, whole.

    Raises:
        TemplateError: The template (jinja2) refuses the conversation.
    """
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    ids: list[int] = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids


def longest_read(model_config: Any, max_tokens: int) -> int:
    """Tokens of the longest conversation that a model reads.

    What is configured, or less where the model itself ends earlier.
    """
    return min(max_tokens, getattr(model_config.get_text_config(), "max_position_embeddings", None) or max_tokens)
