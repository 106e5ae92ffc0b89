"""Log-probabilities of chosen columns of the vocabulary without ever holding all logits in fp32.

Also tells whether a model's logits are its head's output as it is, which that needs.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import pad

from components.models.adapters import output_head, unwrapped
from components.models.cpu.linear import ROWS_AT_ONCE, OneDnnLinear, pad_rows, product, product_over_rows

TILE_BYTES = {True: 16 * 2**20, False: 256 * 2**20}
"""Bytes of the fp32 logits of one product, on a CPU (True) and elsewhere, where more keep the device busy."""
LEAST_ROWS = 256
"""Fewest rows of a product: fewer are slow."""
CACHED_BYTES = 2**20
"""Bytes of the fp32 logits whose softmax a CPU core computes at once: they stay in its own cache."""
ENTROPY_BYTES = 32 * 2**20
"""Bytes of the fp32 logits whose entropies are taken at once: beside a tile they should take little memory."""
KEPT_BYTES = 256 * 2**20
"""Bytes of logits up to which they are kept for the backward pass rather than computed again."""

HeadUse = Literal["plain", "by row", "unknown"]
"""What a model does with its head: its logits are a linear head's output as it is; are computed from it row by row, say
capped; or it has no head that can be called."""
LINEAR = (torch.nn.Linear, OneDnnLinear)
SENT = (1234.0, -567.0)
"""Values that a trial puts in place of the head's output: a cap or a scale behind the head would change them."""
_uses: "WeakKeyDictionary[torch.nn.Module, HeadUse]" = WeakKeyDictionary()


def head_use(model: Any) -> HeadUse:
    """Return what a model does with its head, tried once per model; every rank must call this.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
    """
    base = unwrapped(model)
    if base not in _uses:
        _uses[base] = _tried(base)
    use = _uses[base]
    # An adapter on the head may have come since.
    return "by row" if use == "plain" and type(output_head(model)) not in LINEAR else use


@torch.no_grad()
def _tried(base: Any) -> HeadUse:
    head = output_head(base)
    if head is None:
        return "unknown"
    device = next(base.parameters()).device
    sent = torch.tensor([[SENT]], device=device)
    with replaced(head, lambda _: sent.clone()):
        try:
            logits = base(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False).logits
        except (TypeError, ValueError, IndexError, RuntimeError):
            return "unknown"
    if logits.shape != sent.shape:
        return "unknown"
    return "plain" if torch.equal(logits, sent) else "by row"


@contextlib.contextmanager
def replaced(head: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replace a module's forward within the block."""
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def column_logps(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    columns: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropies: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return log softmax((hidden weight^T + bias) / temperature) at some columns of each row; the softmax in fp32.

    If the head is trained and its logits take at most `KEPT_BYTES`, they are one product, and their memory holds what
    the backward pass needs: with one column per row the gradient of the logits, up to a factor per row; else the
    logits. If the head is frozen and there is one column per row, the gradient of the hidden states is computed in the
    forward pass, up to that factor, and nothing else is kept. Otherwise the logits are computed tile by tile, and again
    in the backward pass. Without gradients nothing is kept.

    Args:
        hidden: (rows, hidden size).
        weight: (vocabulary, hidden size).
        bias: (vocabulary,).
        columns: (rows, k) token ids.
        temperature: Divides the logits; other values than 1 without gradients only.
        entropies: (rows,), fp32. Filled with the entropy of each row's softmax, in nats, from the same logits and
            without a gradient; None computes none.

    Returns:
        (rows, k), fp32, in nats.
    """
    more = (0, 0, 0, pad_rows(len(hidden), hidden.device, hidden.dtype))
    rows, columns = pad(hidden, more), pad(columns, more)
    of_rows = None if entropies is None else entropies.new_empty(len(rows))
    logps: torch.Tensor = _ColumnLogps.apply(rows, weight, bias, columns, torch.is_grad_enabled(), temperature, of_rows)
    if entropies is not None and of_rows is not None:
        entropies.copy_(of_rows[: len(hidden)])
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
        temperature: float,
        entropies: torch.Tensor | None,
    ) -> torch.Tensor:
        assert temperature == 1.0 or not learns, "gradients are those of temperature 1"
        # `needs_input_grad` is also True if no gradient is recorded, and in here recording is always off.
        needs = [learns and needed for needed in ctx.needs_input_grad]
        trains_head = needs[1] or needs[2]
        keeps = trains_head and hidden.shape[0] * weight.shape[0] * hidden.element_size() <= KEPT_BYTES
        logps = torch.empty(columns.shape, dtype=torch.float32, device=hidden.device)
        saved_logits: list[torch.Tensor] = []
        ahead = needs[0] and not trains_head and columns.shape[1] == 1
        own = torch.empty_like(hidden) if ahead else None
        holds_gradients = ahead or (keeps and columns.shape[1] == 1)
        for tile in _tiles(hidden, weight, all_at_once=keeps):
            logits = _logits(hidden[tile], weight, bias)
            for rows in _in_cache(logits):
                all_logps = at_temperature(logits[rows], temperature).log_softmax(dim=1, dtype=torch.float32)
                logps[tile][rows] = all_logps.gather(1, columns[tile][rows])
                if entropies is not None and not holds_gradients:
                    entropies[tile][rows] = _entropies_of(all_logps)
                if holds_gradients:
                    gradients = _one_hot_minus_probs(all_logps, columns[tile][rows])
                    if entropies is not None:
                        entropies[tile][rows] = _entropies(gradients, logits[rows], logps[tile][rows])
                    logits[rows] = gradients
            if own is not None:
                own[tile] = product(logits, weight.T)
            elif keeps:
                saved_logits.append(logits)
        ctx.save_for_backward(hidden, columns, *([own] if own is not None else []))
        # The weight is read only when it is needed: a sharded one is gathered again, in place, for the backward pass.
        ctx.weight, ctx.bias, ctx.saved_logits, ctx.holds_gradients = weight, bias, saved_logits, holds_gradients
        return logps

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None, None, None, None]:
        hidden, columns, *ahead = ctx.saved_tensors
        if ahead:
            return (ahead[0] * gradient).to(hidden.dtype), None, None, None, None, None, None
        weight, bias = ctx.weight, ctx.bias
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight: torch.Tensor | None = None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        for tile in _tiles(hidden, weight, all_at_once=bool(ctx.saved_logits)):
            grad_logits = ctx.saved_logits.pop() if ctx.saved_logits else _logits(hidden[tile], weight, bias)
            factors = gradient[tile]
            if not ctx.holds_gradients:
                _gradient_in_place(grad_logits, columns[tile], gradient[tile])
                factors = torch.ones_like(factors[:, :1])
            if grad_hidden is not None:
                grad_hidden[tile] = product(grad_logits, weight.T) * factors
            if ctx.needs_input_grad[1]:
                part = product_over_rows(grad_logits, (hidden[tile] * factors).to(hidden.dtype))
                grad_weight = part if grad_weight is None else grad_weight.add_(part)
            if grad_bias is not None:
                grad_bias += grad_logits.T @ factors.squeeze(1).to(grad_logits.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def at_temperature(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return logits (..., vocabulary) divided by a temperature, as the sampler does it: in fp32 and from the largest.

    At 1 they are returned as they are.
    """
    if temperature == 1.0:
        return logits
    scores = logits.float()
    return (scores - scores.amax(dim=-1, keepdim=True)) / temperature


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = product(hidden, weight)
    return logits if bias is None else logits.add_(bias)


def _one_hot_minus_probs(logps: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each row's one log-probability by its logits, in the memory of `logps`."""
    return logps.exp_().neg_().scatter_add_(1, columns, logps.new_ones(columns.shape))


def _entropies(gradients: torch.Tensor, logits: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row, (rows,), from what is at hand: one-hot minus probabilities, and log p.

    With p = softmax(z) it is logsumexp(z) - p z. Since logsumexp(z) = z_c - log p_c for any column c, that is
    (one_hot_c - p) z - log p_c: no second exponential is taken.
    """
    lowest = torch.finfo(torch.float32).min
    parts = [torch.linalg.vecdot(gradients[rows], logits[rows].float().clamp(min=lowest)) for rows in _parts(logits)]
    return torch.cat(parts) - logps.squeeze(1)


def _entropies_of(logps: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row from all its log-probabilities, (rows,)."""
    return torch.cat([torch.special.entr(logps[rows].exp()).sum(dim=1) for rows in _parts(logps)])


@torch.no_grad()
def entropies_of_logits(logits: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row, (rows,), from its logits (rows, vocabulary) and their logsumexp (rows,)."""
    return torch.cat([_entropies_of(logits[rows] - total[rows].unsqueeze(1)) for rows in _parts(logits)])


def _parts(logits: torch.Tensor) -> Iterator[slice]:
    """Yield rows whose entropies are taken at once."""
    return _even(len(logits), max(1, ENTROPY_BYTES // (4 * logits.shape[1])))


def _gradient_in_place(logits: torch.Tensor, columns: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return the gradient of sum(factors * logps) by the logits, in the logits' memory."""
    for rows in _in_cache(logits):
        probs = logits[rows].softmax(dim=1, dtype=torch.float32)
        weighted = probs.mul_(-factors[rows].sum(dim=1, keepdim=True))
        logits[rows] = weighted.scatter_add_(1, columns[rows], factors[rows])
    return logits


def _tiles(hidden: torch.Tensor, weight: torch.Tensor, *, all_at_once: bool) -> Iterator[slice]:
    """Yield tiles of rows whose logits are one product, of about equal size."""
    return _even(len(hidden), len(hidden) if all_at_once else _rows_of_a_tile(hidden.device, len(weight)))


def _rows_of_a_tile(device: torch.device, vocabulary: int) -> int:
    return max(LEAST_ROWS, TILE_BYTES[device.type == "cpu"] // (4 * vocabulary))


def _in_cache(logits: torch.Tensor) -> Iterator[slice]:
    """Yield rows whose softmax is taken at once."""
    if logits.device.type != "cpu":
        return _even(len(logits), _rows_of_a_tile(logits.device, logits.shape[1]))
    return _even(len(logits), torch.get_num_threads() * max(1, CACHED_BYTES // (4 * logits.shape[1])))


def _even(total: int, most: int) -> Iterator[slice]:
    """Yield slices of equal size, except for the last, and of few sizes over all totals."""
    size = -(-total // max(1, -(-total // most)))
    if size > ROWS_AT_ONCE:
        size += -size % ROWS_AT_ONCE
    for begin in range(0, total, max(1, size)):
        yield slice(begin, min(begin + size, total))
