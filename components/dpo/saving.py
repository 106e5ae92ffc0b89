"""Write what was trained as an ordinary model, or adapter, that stops where its answers were sampled to stop."""

from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from components.models.adapters import is_wanted, save_adapter
from components.records import ModelRef, TrainRequest


def save_trained(
    request: TrainRequest, model: Any, tokenizer: Any, state: dict[str, torch.Tensor], out: Path, *, stop_ids: Set[int]
) -> None:
    """Write `adapter/` or `model/` with the tokenizer.

    Args:
        request: Says whether an adapter is trained.
        model: The trained model.
        tokenizer: Its tokenizer.
        state: Its weights, or the adapter's.
        out: The stage's directory.
        stop_ids: Tokens that ended the answers on which it was trained. A model that is served reads them from its
            generation config, which often lacks the one that the chat template writes.
    """
    if is_wanted(request.lora, request.soft_prompt):
        save_adapter(model, state, out / "adapter")
        tokenizer.save_pretrained(out / "adapter")
        return
    save_model(model, tokenizer, state, out / "model", stop_ids=stop_ids)


def save_model(
    model: Any, tokenizer: Any, state: dict[str, torch.Tensor] | None, directory: Path, *, stop_ids: Set[int]
) -> None:
    """Write a model and its tokenizer; arguments as for `save_trained`. Without `state` its own weights are written."""
    named = model.generation_config.eos_token_id
    if set(stop_ids) != set(named if isinstance(named, list) else [named]):
        model.generation_config.eos_token_id = sorted(stop_ids)
    model.save_pretrained(directory, state_dict=state, safe_serialization=True)
    tokenizer.save_pretrained(directory)


def refuse_unchanged(trained: ModelRef, request: TrainRequest) -> None:
    """Refuse a training whose published weights are those that it started from.

    Raises:
        RuntimeError: They are.
    """
    if trained.digest == request.policy.digest:
        raise RuntimeError(
            f"training changed no weight: raise training.learning_rate ({request.training.learning_rate:g}), "
            "or train in float32"
        )
