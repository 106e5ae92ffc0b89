"""Log-probabilities of chosen columns of the vocabulary without ever holding all logits in fp32.

Knows a linear head and nothing else.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import pad

from components.models.cpu.linear import ROWS_AT_ONCE, pad_rows, product, product_over_rows

TILE_BYTES = {True: 16 * 2**20, False: 256 * 2**20}
"""Logits of one product in fp32, on a CPU (True) and elsewhere, where they keep the device busy."""
LEAST_ROWS = 256
"""Rows of a product at least: fewer are slow."""
CACHED_BYTES = 2**20
"""Logits in fp32 of which a CPU core computes the softmax at once: they stay in its own cache."""
KEPT_BYTES = 256 * 2**20
"""Logits that are kept for the backward pass rather than computed again."""


def column_logps(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, columns: torch.Tensor
) -> torch.Tensor:
    """Gives log softmax(hidden weight^T + bias) at some columns of each row; the softmax in fp32.

    Where they are few, the logits are one product, and what is kept for the backward pass stands in their place: for
    one column a row their gradient, up to the factor that comes with each row; else themselves. Where they are many,
    they are computed tile by tile, and once more there. Where the weight is frozen, the gradient of the hidden states
    is made in the forward pass, up to that factor, and nothing else is kept. Without a gradient nothing is.

    Args:
        hidden: (rows, hidden size).
        weight: (vocabulary, hidden size).
        bias: (vocabulary,).
        columns: (rows, k) token ids.

    Returns:
        (rows, k), fp32, in nats.
    """
    lacking = pad_rows(len(hidden), hidden.device, hidden.dtype)
    more = (0, 0, 0, lacking)
    logps: torch.Tensor = _ColumnLogps.apply(
        pad(hidden, more), weight, bias, pad(columns, more), torch.is_grad_enabled()
    )
    return logps[: len(hidden)]


class _ColumnLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        columns: torch.Tensor,
        learns: bool,
    ) -> torch.Tensor:
        # What torch says is needed is what requires a gradient, also where none is recorded; and in here none ever is.
        needs = [learns and needed for needed in ctx.needs_input_grad]
        trains_head = needs[1] or needs[2]
        keeps = trains_head and hidden.shape[0] * weight.shape[0] * hidden.element_size() <= KEPT_BYTES
        logps = torch.empty(columns.shape, dtype=torch.float32, device=hidden.device)
        kept: list[torch.Tensor] = []
        ahead = needs[0] and not trains_head and columns.shape[1] == 1
        own = torch.empty_like(hidden) if ahead else None
        turns = ahead or (keeps and columns.shape[1] == 1)
        for tile in _tiles(hidden, weight, all_at_once=keeps):
            logits = _logits(hidden[tile], weight, bias)
            for rows in _in_cache(logits):
                all_logps = logits[rows].log_softmax(dim=1, dtype=torch.float32)
                logps[tile][rows] = all_logps.gather(1, columns[tile][rows])
                if turns:
                    logits[rows] = _one_hot_less_shares(all_logps, columns[tile][rows])
            if own is not None:
                own[tile] = product(logits, weight.T)
            elif keeps:
                kept.append(logits)
        ctx.save_for_backward(hidden, columns, *([own] if own is not None else []))
        # The weight is looked at when it is needed: a sharded one is gathered again, in place, for the backward pass.
        ctx.weight, ctx.bias, ctx.kept, ctx.turned = weight, bias, kept, turns
        return logps

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden, columns, *ahead = ctx.saved_tensors
        if ahead:
            return (ahead[0] * gradient).to(hidden.dtype), None, None, None, None
        weight, bias = ctx.weight, ctx.bias
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight: torch.Tensor | None = None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for tile in _tiles(hidden, weight, all_at_once=bool(ctx.kept)):
            of_logits = ctx.kept.pop() if ctx.kept else _logits(hidden[tile], weight, bias)
            factors = gradient[tile]
            if not ctx.turned:
                _gradient_in_place(of_logits, columns[tile], gradient[tile])
                factors = torch.ones_like(factors[:, :1])
            if of_hidden is not None:
                of_hidden[tile] = product(of_logits, weight.T) * factors
            if ctx.needs_input_grad[1]:
                part = product_over_rows(of_logits, (hidden[tile] * factors).to(hidden.dtype))
                of_weight = part if of_weight is None else of_weight.add_(part)
            if of_bias is not None:
                of_bias += of_logits.T @ factors.squeeze(1).to(of_logits.dtype)
        return of_hidden, of_weight, of_bias, None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = product(hidden, weight)
    return logits if bias is None else logits.add_(bias)


def _one_hot_less_shares(logps: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Gradient of each row's one column of log-probabilities for the logits, in the log-probabilities' memory."""
    return logps.exp_().neg_().scatter_add_(1, columns, logps.new_ones(columns.shape))


def _gradient_in_place(logits: torch.Tensor, columns: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Gradient of sum(factors * logps) for the logits, in their own memory."""
    for rows in _in_cache(logits):
        probabilities = logits[rows].softmax(dim=1, dtype=torch.float32)
        falling = probabilities.mul_(-factors[rows].sum(dim=1, keepdim=True))
        logits[rows] = falling.scatter_add_(1, columns[rows], factors[rows])
    return logits


def _tiles(hidden: torch.Tensor, weight: torch.Tensor, *, all_at_once: bool) -> Iterator[slice]:
    """Rows of which the logits are one product, about as many in each."""
    return _even(len(hidden), len(hidden) if all_at_once else _rows_of_a_tile(hidden.device, len(weight)))


def _rows_of_a_tile(device: torch.device, vocabulary: int) -> int:
    return max(LEAST_ROWS, TILE_BYTES[device.type == "cpu"] // (4 * vocabulary))


def _in_cache(logits: torch.Tensor) -> Iterator[slice]:
    """Rows of which the softmax is taken at once."""
    if logits.device.type != "cpu":
        return _even(len(logits), _rows_of_a_tile(logits.device, logits.shape[1]))
    return _even(len(logits), torch.get_num_threads() * max(1, CACHED_BYTES // (4 * logits.shape[1])))


def _even(total: int, most: int) -> Iterator[slice]:
    """Pieces of one size, but for the last, and of few sizes over all totals."""
    size = -(-total // max(1, -(-total // most)))
    if size > ROWS_AT_ONCE:
        size += -size % ROWS_AT_ONCE
    for begin in range(0, total, max(1, size)):
        yield slice(begin, min(begin + size, total))
