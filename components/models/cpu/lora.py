"""LoRA layers on a CPU as one function each: the low-rank product is added in the base's memory.

The forward of peft makes three more tensors of the output's size.

LoRA: arXiv 2106.09685, equation 3.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear

from components.models.cpu.linear import OneDnnLinear, padded_rows, product, product_over_rows

ADAPTER = "default"
"""peft's name of the one adapter."""


class CpuLoraLinear(Linear):
    """A linear layer with a low-rank addition, by `lora_linear` where that is all that the layer does."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in features) to (..., out features)."""
        if args or kwargs or not self._is_plain(x):
            plain: torch.Tensor = super().forward(x, *args, **kwargs)
            return plain
        base, low, high = self.base_layer, self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        return lora_linear(x, base.weight, base.bias, low, high, self.scaling[ADAPTER])

    def _is_plain(self, x: torch.Tensor) -> bool:
        """Return whether the output is that of the base and of one undropped LoRA, and the base is frozen and whole."""
        if self.disable_adapters or self.merged or list(self.active_adapters) != [ADAPTER] or self.lora_variant:
            return False
        base, low, high = self.base_layer, self.lora_A[ADAPTER], self.lora_B[ADAPTER]
        dropout, weights = self.lora_dropout[ADAPTER], (base.weight, low.weight, high.weight)
        return (
            type(base) in (torch.nn.Linear, OneDnnLinear)
            and not base.weight.requires_grad
            and high.bias is None
            and not (dropout.training and isinstance(dropout, torch.nn.Dropout))
            and x.numel() > 0
            and all(weight.device.type == "cpu" and weight.dtype == x.dtype for weight in weights)
            # DeepSpeed gathers the weights that it shards only for the forward of the module that has them.
            and not any(hasattr(weight, "ds_id") for weight in weights)
            and not torch.is_autocast_enabled("cpu")
        )


def adopt(module: torch.nn.Module) -> None:
    """Make one of peft's LoRA layers a `CpuLoraLinear`."""
    if type(module) is Linear:
        module.__class__ = CpuLoraLinear


def lora_linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    low: torch.Tensor,
    high: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """Return input weight^T + bias + scaling (input low^T) high^T.

    Args:
        input: (..., in features).
        weight: (out features, in features), frozen.
        bias: (out features,), frozen.
        low: (rank, in features).
        high: (out features, rank).
        scaling: Factor of the low-rank product.
    """
    count = input.shape[:-1].numel()
    result: torch.Tensor = _LoraLinear.apply(input.reshape(count, -1), weight, bias, low, high, scaling)
    result = result if len(result) == count else result[:count]
    return result.view(*input.shape[:-1], len(weight))


class _LoraLinear(torch.autograd.Function):
    """Maps (rows, in features) to (rows and `pad_rows`, out features)."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        low: torch.Tensor,
        high: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        padded = padded_rows(rows)
        result, inner = product(padded, weight), product(padded, low)
        if bias is not None:
            result += bias
        ctx.save_for_backward(padded, inner, weight, low, high)
        ctx.scaling, ctx.count = scaling, len(rows)
        return result.addmm_(inner, high.T, alpha=scaling)

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, torch.Tensor, torch.Tensor, None]:
        rows, inner, weight, low, high = ctx.saved_tensors
        of_inner = product(gradient, high.T).mul_(ctx.scaling)
        grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_rows = product(gradient, weight.T).addmm_(of_inner, low)[: ctx.count]
        grad_high = product_over_rows(gradient, inner).mul_(ctx.scaling)
        return grad_rows, None, None, product_over_rows(of_inner, rows), grad_high, None
