"""Load the policy for a round's training: with its own adapter, a fresh one, or all weights open to training.

Knows no pairs and no loss.
"""

from pathlib import Path
from typing import Any

import torch

from components.models.adapters import (
    describe_saved,
    describe_wanted,
    is_wanted,
    saved_modules,
    wanted_modules,
    with_fresh_adapter,
)
from components.models.loading import load_policy
from components.models.merging import merge
from components.models.noise import recompute_activations
from components.records import TrainRequest


def takes_fresh_adapter(request: TrainRequest) -> bool:
    """Return whether this round is the first to train an adapter on its policy."""
    return request.policy.adapter is None and is_wanted(request.lora, request.soft_prompt)


def begins_elsewhere(request: TrainRequest) -> bool:
    """Return whether the model differs from its policy before the first step, because of fresh virtual tokens."""
    return takes_fresh_adapter(request) and request.soft_prompt.kind != "none"


def trainable_policy(request: TrainRequest, dtype: torch.dtype, device: torch.device) -> Any:
    """Load the policy, with those weights open to training that the configuration names.

    Raises:
        ValueError: The policy's adapter cannot become what the configuration asks for, or cannot be merged.
    """
    _refuse_another_adapter(request)
    torch.manual_seed(request.seed)
    model: Any = load_policy(
        request.policy, dtype=dtype, device=device, quantization=request.limits.quantization, trainable_adapter=True
    )
    if takes_fresh_adapter(request):
        model = with_fresh_adapter(model, request.lora, request.soft_prompt)
    elif request.policy.adapter is not None and not is_wanted(request.lora, request.soft_prompt):
        model = merge(model).requires_grad_(True)
    if request.training.gradient_checkpointing:
        recompute_activations(model)
    return model


def _refuse_another_adapter(request: TrainRequest) -> None:
    if request.policy.adapter is None:
        return
    saved, wanted = describe_saved(request.policy.adapter), describe_wanted(request.lora, request.soft_prompt)
    if wanted == "none" and "rank" in saved:
        return
    if wanted == saved:
        if request.lora.rank:
            _refuse_other_modules(request, request.policy.adapter)
        return
    remedy = "set it back, or `lora: {rank: 0}` to train all weights" if "rank" in saved else "set it back"
    raise ValueError(
        f"round {request.policy.round} trained an adapter ({saved}), and the configuration asks for another "
        f"({wanted}), "
        f"which it cannot become: {remedy}, or begin another campaign"
    )


def _refuse_other_modules(request: TrainRequest, adapter: Path) -> None:
    policy, asked = request.policy, request.lora.target_modules
    saved, wanted = saved_modules(adapter), wanted_modules(policy.base, policy.revision, request.lora)
    remedy = "set it back, or `lora: {rank: 0}` to train all weights, or begin another campaign"
    if saved.adapted != wanted.adapted:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in saved.adapted}))
        raise ValueError(
            f"round {policy.round} trained an adapter on {len(saved.adapted)} modules ({kinds}), and "
            f"lora.target_modules = {asked} names {len(wanted.adapted)}, {len(saved.adapted & wanted.adapted)} of them "
            f"the same: {remedy}"
        )
    if saved.whole != wanted.whole:
        raise ValueError(
            f"round {policy.round} trained {_names(saved.whole)} beside its adapter, and lora.modules_to_save = "
            f"{request.lora.modules_to_save!r} names {_names(wanted.whole)}: {remedy}"
        )


def _names(modules: set[str]) -> str:
    return ", ".join(sorted(modules)) or "no module"
