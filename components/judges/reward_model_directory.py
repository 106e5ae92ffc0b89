"""A reward model on disk: its path, whether it can judge, and the tokens of a conversation. Loads no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import JudgeSettings
from components.data.messages import Messages
from components.models.directory import check_model_directory, locate_model
from components.models.tokens import ChatTokenizer

READING_DATE = "2026-01-01"
"""Date that the chat template of a reward model reads as today's: the same in training and in judging, on any day."""


def reward_model_directory(config: JudgeSettings) -> Path:
    """Return the checked directory of the configured reward model; a hub model is downloaded once.

    Raises:
        ValueError: It is missing or incomplete, has pickled weights only, or is not a classifier with one output.
    """
    path = locate_model(config.model, config.revision)
    check_model_directory(path)
    settings: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    architectures = settings.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        names = ", ".join(architectures) or "no architecture"
        raise ValueError(
            f"judge.model {config.model} is not a reward model ({names}): use a ...ForSequenceClassification model"
        )
    labels = len(settings["id2label"]) if "id2label" in settings else settings.get("num_labels", 2)
    if labels != 1:
        raise ValueError(
            f"judge.model {config.model} has {labels} outputs: use a reward model with one output (num_labels=1)"
        )
    return path


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check that the configured reward model exists and can judge.

    Raises:
        ValueError: As `reward_model_directory`.
    """
    reward_model_directory(config)


def conversation_ids(tokenizer: Any, messages: Messages, text: str) -> list[int]:
    """Return the token ids of a prompt with a response in the model's chat template, not truncated.

    Raises:
        TemplateError: The template (jinja2) refuses the conversation.
    """
    answered = [*messages, {"role": "assistant", "content": text}]
    whole = ChatTokenizer(tokenizer, template_date=READING_DATE).render(answered, add_generation_prompt=False)
    ids: list[int] = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids


def longest_read(model_config: Any, max_tokens: int) -> int:
    """Return the number of tokens of the longest conversation that a model reads.

    It is the configured limit, or the model's own limit if that is lower.
    """
    return min(max_tokens, getattr(model_config.get_text_config(), "max_position_embeddings", None) or max_tokens)
