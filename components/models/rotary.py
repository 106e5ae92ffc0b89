"""Rotary positions that depend on a row's own length only, not on what shares its batch.

Two kinds of rotary embeddings choose their frequencies by the length of the sequence: `dynamic` (NTK) changes them with
every token beyond the original context, `longrope` (Phi-3 with 128k) has two sets, within and beyond it. transformers
takes the longest row of a batch for all its rows, and `dynamic` remembers the longest of earlier batches too.
"""

from typing import Any

import torch

UNLIMITED = 2**31
"""Original context of a model whose frequencies do not depend on the length."""
DEPENDENT = ("dynamic", "longrope")


def make_rows_independent(model: torch.nn.Module) -> None:
    """Give each row of a batch the frequencies of its own length; safe to call again."""
    for module in model.modules():
        if _dependent_types(module) and not isinstance(module, RotaryByRow):
            module.__class__ = type(type(module).__name__, (RotaryByRow, type(module)), {})


def original_context(model: torch.nn.Module) -> int:
    """Return the tokens of the longest row whose frequencies are those of all shorter ones."""
    contexts = [
        _context(module, layer_type) for module in model.modules() for layer_type, _ in _dependent_types(module)
    ]
    return min(contexts, default=UNLIMITED)


def steady_tokens(model: torch.nn.Module, length: int) -> int:
    """Return how many tokens can follow a row of `length` tokens before the frequencies of its positions change.

    Each of them is predicted with the same frequencies, so that keys of earlier tokens can be kept.
    """
    context = original_context(model)
    if length <= context:
        return context - length + 1
    grows = any("dynamic" in kind for module in model.modules() for _, kind in _dependent_types(module))
    return 1 if grows else UNLIMITED


def longest_context(model: Any) -> int | None:
    """Return the positions that a model has: its configured ones, times the factor of a dynamic RoPE; None if any."""
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    if context is None or "dynamic" not in str(parameters.get("rope_type")):
        return context
    return int(context * parameters.get("factor", 1.0))


class RotaryByRow(torch.nn.Module):
    """Mixed into a model's rotary embedding; groups the rows of a batch by the frequencies that each has alone."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the model's embedding returns, such as cos and sin of (rows, tokens, size).

        Args:
            x: Gives device and precision.
            position_ids: (rows, tokens).
            args: The kind of the layer, in a model whose layers differ.
            kwargs: The same.
        """
        layer_type = kwargs.get("layer_type", args[0] if args else None)
        grows, context = "dynamic" in _type_of(self, layer_type), _context(self, layer_type)
        lengths = (position_ids.flatten(1).amax(dim=1) + 1).tolist()
        kinds = [max(length, context) if grows else length > context for length in lengths]
        parts = []
        for kind in sorted(set(kinds)):
            rows = torch.tensor([row for row, own in enumerate(kinds) if own == kind], device=position_ids.device)
            if grows:
                self._forget(layer_type)
            parts.append((rows, super().forward(x, position_ids[rows], *args, **kwargs)))
        if len(parts) == 1:
            return parts[0][1]
        order = torch.cat([rows for rows, _ in parts]).argsort()
        if isinstance(parts[0][1], torch.Tensor):
            return torch.cat([result for _, result in parts])[order]
        return tuple(torch.cat(tensors)[order] for tensors in zip(*(result for _, result in parts), strict=True))

    def _forget(self, layer_type: str | None) -> None:
        """Take the original frequencies again."""
        prefix = "" if layer_type is None else f"{layer_type}_"
        setattr(self, f"{prefix}max_seq_len_cached", self.original_max_seq_len)
        original: Any = getattr(self, f"{prefix}original_inv_freq")
        self.register_buffer(
            f"{prefix}inv_freq", original.to(getattr(self, f"{prefix}inv_freq").device), persistent=False
        )


def _dependent_types(module: Any) -> list[tuple[str | None, str]]:
    """Return the kinds of layers of a rotary embedding whose rope type depends on the length, with that type."""
    types = getattr(module, "rope_type", None)
    pairs = types.items() if isinstance(types, dict) else [(None, types)] if isinstance(types, str) else []
    return [(layer_type, kind) for layer_type, kind in pairs if any(name in kind for name in DEPENDENT)]


def _type_of(module: Any, layer_type: str | None) -> str:
    return str(module.rope_type if layer_type is None else module.rope_type[layer_type])


def _context(module: Any, layer_type: str | None) -> int:
    if "dynamic" in _type_of(module, layer_type):
        return int(module.original_max_seq_len)
    parameters = module.config.rope_parameters
    return int((parameters if layer_type is None else parameters[layer_type])["original_max_position_embeddings"])
