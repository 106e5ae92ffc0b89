"""Linear layers by oneDNN: in fp32 on processors for which torch's own library has no fast kernels, and in bf16.

Knows no model.

torch multiplies fp32 matrices by MKL, which uses AVX-512 on Intel's processors only; oneDNN uses it on all, in the same
precision. On a Zen 5 core oneDNN makes 1.4 to 2.3 times as many products per second (measured, all three products of a
layer, 16 rows and more). In bf16 torch calls oneDNN itself. oneDNN compiles and caches a primitive (3 ms, 0.5 MiB) per
matrix shape, so we pad the row count to one of a few sizes.
"""

import functools
from pathlib import Path
from typing import Any

import torch

ROWS_AT_ONCE = 16
"""Rows that a processor with AMX multiplies in bf16 at once: fewer rows cost as much."""


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether oneDNN computes fp32 products faster here.

    The result is the same in every run on a processor, so that runs repeat bit by bit.
    """
    if not (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_f")) and _vendor() == "AuthenticAMD"


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


class OneDnnLinear(torch.nn.Linear):
    """A linear layer whose products, forward and backward, are oneDNN's and of few shapes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in features) to (..., out features)."""
        return linear(input, self.weight, self.bias)


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return input weight^T + bias, by oneDNN if that is faster or torch uses it anyway."""
    count = input.shape[:-1].numel()
    if _takes(input, weight):
        result: torch.Tensor = _Linear.apply(input.reshape(count, -1), weight, bias)
        # Taken here and not in the function: a view that it returned could not be changed in place, as some models do.
        result = result if len(result) == count else result[:count]
        return result.view(*input.shape[:-1], len(weight))
    if input.dtype != torch.bfloat16 or not pad_rows(count, input.device, input.dtype):
        return torch.nn.functional.linear(input, weight, bias)
    outputs = torch.nn.functional.linear(padded_rows(input.reshape(count, -1)), weight, bias)
    return outputs[:count].view(*input.shape[:-1], outputs.shape[1])


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a b^T of matrices (m, k) and (n, k), without a gradient, by oneDNN if that is faster."""
    return _multiply(padded_rows(a), b)[: len(a)] if _takes(a, b) else a @ b.T


def product_over_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a^T b of matrices (rows, m) and (rows, n), without a gradient, by oneDNN if that is faster."""
    return _multiply(padded_rows(a).T, padded_rows(b).T) if _takes(a, b) else a.T @ b


def _takes(a: torch.Tensor, b: torch.Tensor) -> bool:
    plain = a.dtype == b.dtype == torch.float32 and a.device.type == b.device.type == "cpu" and a.numel() > 0
    return plain and not torch.is_autocast_enabled("cpu") and onednn_is_faster()


def _multiply(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return result


def caches_primitives(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether oneDNN, which caches a primitive per shape, computes products of this device and type."""
    return device.type == "cpu" and (dtype == torch.bfloat16 or (dtype == torch.float32 and onednn_is_faster()))


def pad_rows(count: int, device: torch.device, dtype: torch.dtype) -> int:
    """Return how many rows to add to a matrix of `count` rows, so that only few sizes occur.

    There are sixteen sizes per octave, in bf16 multiples of `ROWS_AT_ONCE`. Packed rows rarely have the same length
    twice, and responses that are decoded end one by one. If products are not oneDNN's, no rows are added.
    """
    if not caches_primitives(device, dtype):
        return 0
    return -count % max(ROWS_AT_ONCE if dtype == torch.bfloat16 else 1, 2 ** (count.bit_length() - 5))


def padded_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the matrix with as many rows of zeros behind it as `pad_rows` says."""
    more = pad_rows(len(rows), rows.device, rows.dtype)
    return torch.nn.functional.pad(rows, (0, 0, 0, more)) if more else rows


class _Linear(torch.autograd.Function):
    """Maps (rows, in features) to (rows and `pad_rows`, out features)."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padded = padded_rows(rows)
        ctx.save_for_backward(padded, weight)
        ctx.count = len(rows)
        return _multiply(padded, weight, bias)

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        rows, weight = ctx.saved_tensors
        grad_rows = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_rows = _multiply(gradient, weight.T)[: ctx.count]
        if ctx.needs_input_grad[1]:
            grad_weight = product_over_rows(gradient, rows)
        grad_bias = gradient[: ctx.count].sum(dim=0) if ctx.needs_input_grad[2] else None
        return grad_rows, grad_weight, grad_bias
