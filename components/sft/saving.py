"""Write what was trained as an ordinary model directory, which a campaign can begin with. Knows no data."""

import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

import torch

from components.dpo.saving import save_model
from components.models.adapters import save_adapter
from components.models.loading import load_policy
from components.models.merging import merge
from components.records import ModelRef


def save_whole(
    base: ModelRef,
    model: Any,
    tokenizer: Any,
    state: dict[str, torch.Tensor],
    out: Path,
    *,
    has_adapter: bool,
    stop_ids: Set[int],
) -> None:
    """Write a model with its tokenizer and generation config; an adapter is merged into it.

    Args:
        base: The model from which the training started.
        model: The trained model.
        tokenizer: Its tokenizer.
        state: Its weights, or the adapter's.
        out: The stage's directory.
        has_adapter: Whether an adapter was trained.
        stop_ids: Tokens that end an answer.

    Raises:
        ValueError: The merged model scores tokens differently from the unmerged one.
    """
    if not has_adapter:
        save_model(model, tokenizer, state, out, stop_ids=stop_ids)
        return
    folder = out / "adapter"
    save_adapter(model, state, folder)
    dtype, device = next(model.parameters()).dtype, next(model.parameters()).device
    merged = merge(load_policy(base.model_copy(update={"adapter": folder}), dtype=dtype, device=device))
    shutil.rmtree(folder)
    save_model(merged, tokenizer, None, out, stop_ids=stop_ids)
