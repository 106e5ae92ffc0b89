"""Log-probabilities of chosen columns of the vocabulary without ever holding all logits in fp32. Knows a linear head and nothing else."""

from collections.abc import Iterator
from typing import Any

import torch

from components.cpu_linear import product, product_over_rows

TILE_BYTES = {True: 16 * 2**20, False: 256 * 2**20}
"""Logits of one tile in fp32: on a CPU (True) they stay in its cache, elsewhere they keep the device busy."""
LEAST_ROWS = 256
"""Rows of a tile at least: fewer make slow matrix products."""
KEPT_BYTES = 256 * 2**20
"""Logits that are kept for the backward pass rather than computed again."""


def column_logps(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, columns: torch.Tensor) -> torch.Tensor:
    """Gives log softmax(hidden weight^T + bias) at some columns of each row; the softmax in fp32.

    Where they are few, the logits are kept for the backward pass, in fp32 as log-probabilities that become their own gradient in
    place; else they are computed again, tile by tile. Where the weight is frozen, the gradient of the hidden states is made in the
    forward pass, up to the factor that comes with each row, and nothing else is kept.

    Args:
        hidden: (rows, hidden size).
        weight: (vocabulary, hidden size).
        bias: (vocabulary,).
        columns: (rows, k) token ids.

    Returns:
        (rows, k), fp32, in nats.
    """
    logps: torch.Tensor = _ColumnLogps.apply(hidden, weight, bias, columns)
    return logps


class _ColumnLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, columns: torch.Tensor) -> torch.Tensor:
        needs = ctx.needs_input_grad
        trains_head = needs[1] or needs[2]
        keeps = trains_head and hidden.shape[0] * weight.shape[0] * hidden.element_size() <= KEPT_BYTES
        logps = torch.empty(columns.shape, dtype=torch.float32, device=hidden.device)
        kept: list[torch.Tensor] = []
        ahead = needs[0] and not trains_head and columns.shape[1] == 1
        own = torch.empty_like(hidden) if ahead else None
        for tile in _tiles(hidden, weight):
            logits = _logits(hidden[tile], weight, bias)
            exact = logits.float().log_softmax(dim=1)
            logps[tile] = exact.gather(1, columns[tile])
            if own is not None:
                # Each row's gradient for a factor of one.
                of_logits = _gradient(exact.exp_(), columns[tile], torch.ones_like(logps[tile]))
                own[tile] = product(of_logits.to(hidden.dtype), weight.T)
            elif keeps:
                kept.append(exact if logits.dtype == torch.float32 else logits)
        ctx.save_for_backward(hidden, columns, *([own] if own is not None else []))
        # The weight is looked at when it is needed: a sharded one is gathered again, in place, for the backward pass.
        ctx.weight, ctx.bias, ctx.kept = weight, bias, kept
        return logps

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None]:
        hidden, columns, *ahead = ctx.saved_tensors
        if ahead:
            return (ahead[0] * gradient).to(hidden.dtype), None, None, None
        weight, bias = ctx.weight, ctx.bias
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight: torch.Tensor | None = None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for tile in _tiles(hidden, weight):
            logits = ctx.kept.pop(0) if ctx.kept else None
            if logits is not None and logits.dtype == torch.float32:
                probabilities = logits.exp_()
            else:
                probabilities = (_logits(hidden[tile], weight, bias) if logits is None else logits).float().softmax(dim=1)
            of_logits = _gradient(probabilities, columns[tile], gradient[tile]).to(hidden.dtype)
            if of_hidden is not None:
                of_hidden[tile] = product(of_logits, weight.T)
            if ctx.needs_input_grad[1]:
                part = product_over_rows(of_logits, hidden[tile])
                of_weight = part if of_weight is None else of_weight.add_(part)
            if of_bias is not None:
                of_bias += of_logits.sum(dim=0)
        return of_hidden, of_weight, of_bias, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = product(hidden, weight)
    return logits if bias is None else logits.add_(bias)


def _gradient(probabilities: torch.Tensor, columns: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Gradient of sum(factors * logps) for the logits, in the probabilities' own memory."""
    return probabilities.mul_(-factors.sum(dim=1, keepdim=True)).scatter_add_(1, columns, factors)


def _tiles(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    rows = max(LEAST_ROWS, TILE_BYTES[hidden.device.type == "cpu"] // (4 * weight.shape[0]))
    for begin in range(0, len(hidden), rows):
        yield slice(begin, begin + rows)
