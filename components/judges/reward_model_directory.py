"""Finds a reward model's directory and refuses what cannot judge, without loading it. Loads no torch."""

import json
from pathlib import Path
from typing import Any

from components.config import JudgeSettings
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
        raise ValueError(f"judge.model {config.model} is no reward model ({found}): name a ...ForSequenceClassification model")
    labels = len(settings["id2label"]) if "id2label" in settings else settings.get("num_labels", 2)
    if labels != 1:
        raise ValueError(f"judge.model {config.model} has {labels} outputs: a reward model has one (num_labels=1)")
    return path
