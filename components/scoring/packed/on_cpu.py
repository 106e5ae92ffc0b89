"""Exact attention over a packed row on a CPU, by plain products over the keys that queries see.

A very long response attends to its prompt and to itself in two flash calls, whose outputs are merged by their
log-sum-exp. The backward pass of each call takes the merged output, which gives the gradient of the whole (as in ring
attention, arXiv 2310.01889).
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from components.scoring.packed.layout import Packed, Segment

LONGEST_BLOCK = 1024
"""Tokens of the longest prompt and response whose attention weights are held for the backward pass; up to it the flash
kernel is slower."""
QUERIES_TOGETHER = 128
"""Queries of a response whose attention weights are one product; the last product may have a quarter more."""
SIZES_AN_OCTAVE = 8
"""Numbers of queries and keys per octave that occur in bf16: oneDNN compiles and caches a primitive (0.6 ms, 0.6 MiB)
per shape of a product."""
DTYPES = (torch.float32, torch.bfloat16)
MOST_MORE = LONGEST_BLOCK // (2 * SIZES_AN_OCTAVE)
"""Most queries or keys that are added behind a block's own, so that it has one of those sizes."""
_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def computes(query: torch.Tensor) -> bool:
    """Return whether this module computes attention for such queries."""
    return query.device.type == "cpu" and query.dtype in DTYPES and _FLASH is not None and _FLASH_BACKWARD is not None


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float
) -> torch.Tensor:
    """Compute the attention of each response over its prompt and itself.

    Args:
        query: (1, heads, tokens, head size).
        key: (1, key heads, tokens, head size) of the same precision; query heads share them in equal groups.
        value: As the keys.
        packed: Layout of prompts and responses.
        scale: Factor of the scores.

    Returns:
        (1, tokens, heads, head size).
    """
    out: torch.Tensor = _OnCpu.apply(query, key, value, packed, scale, torch.is_grad_enabled())
    return out


class _OnCpu(torch.autograd.Function):
    """Attention in lines: queries of heads that share a key head are adjacent, so some rows are one matrix."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        packed: Packed,
        scale: float,
        learns: bool,
    ) -> torch.Tensor:
        _, heads, tokens, _ = query.shape
        groups = heads // key.shape[1]
        # The scores are fp32, as a flash kernel's are, whatever the precision of the states.
        queries, keys = (_lines(states, key, torch.float32) for states in (query, key))
        queries, values = queries.mul_(scale), _lines(value, key, value.dtype)
        lines = query.new_empty(len(keys), tokens * groups, query.shape[3])
        lines[:, packed.num_tokens * groups :] = 0
        totals = query.new_empty(1, heads, tokens, dtype=torch.float32)
        weights: list[torch.Tensor] = []
        for segment in packed.in_order:
            rows, runs = _keys_seen_by(segment)
            if _is_long(segment):
                result, totals[:, :, rows] = _merged(query, key, value, rows, runs, scale)
                lines.unflatten(1, (tokens, groups))[:, rows] = _by_key_head(result, key)
                continue
            seen_keys, seen_values = (
                _joined(keys, runs, query.dtype).transpose(1, 2),
                _joined(values, runs, query.dtype),
            )
            for piece in _pieces(rows, segment, groups, query.dtype):
                scores = torch.bmm(queries[:, piece.lines], seen_keys[:, :, : piece.width])
                hidden = scores.view(len(keys), -1, groups, piece.width)[..., piece.first_key :]
                hidden += _no_future(2 * QUERIES_TOGETHER + MOST_MORE)[: hidden.shape[1], :, : hidden.shape[3]]
                probs = scores.softmax(dim=2).to(query.dtype)
                probs[:, piece.num_lines :] = 0
                if learns:
                    weights.append(probs)
                lines[:, piece.own_lines] = torch.bmm(probs, seen_values[:, : piece.width])[:, : piece.num_lines]
        out = _by_token(lines, heads)
        ctx.save_for_backward(query, key, value, out, totals, *weights)
        ctx.packed, ctx.scale = packed, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None, None]:
        query, key, value, out, totals, *weights = ctx.saved_tensors
        _, heads, tokens, size = query.shape
        groups, next_probs = heads // key.shape[1], iter(weights)
        states = gradient.transpose(1, 2), query, key, value, out.transpose(1, 2), totals
        gradients, queries, keys, values = (_lines(tensor, key, query.dtype) for tensor in states[:4])
        grad_query, grad_key, grad_value = (
            query.new_zeros(len(keys), tokens * count, size) for count in (groups, 1, 1)
        )
        for segment in ctx.packed.in_order:
            rows, runs = _keys_seen_by(segment)
            if _is_long(segment):
                result = _merged_backward(states, (grad_key, grad_value), rows, runs, ctx.scale)
                grad_query.unflatten(1, (tokens, groups))[:, rows] = _by_key_head(result, key)
                continue
            seen_keys, seen_values = (
                _joined(keys, runs, query.dtype),
                _joined(values, runs, query.dtype).transpose(1, 2),
            )
            for piece in _pieces(rows, segment, groups, query.dtype):
                probs = next(next_probs)
                grad_probs = torch.bmm(gradients[:, piece.lines], seen_values[:, :, : piece.width])
                grad_scores = torch._softmax_backward_data(grad_probs, probs, 2, probs.dtype).mul_(ctx.scale)
                grad_query[:, piece.own_lines] = torch.bmm(grad_scores, seen_keys[:, : piece.width])[
                    :, : piece.num_lines
                ]
                for whole, product in ((grad_key, (grad_scores, queries)), (grad_value, (probs, gradients))):
                    part = torch.bmm(product[0].transpose(1, 2), product[1][:, piece.lines])
                    _add_apart(whole, part[:, : piece.num_keys], runs)
        return (
            _by_token(grad_query, heads).transpose(1, 2),
            grad_key.unsqueeze(0),
            grad_value.unsqueeze(0),
            None,
            None,
            None,
        )


def _is_long(segment: Segment) -> bool:
    return segment.prompt_length + segment.length > LONGEST_BLOCK


def _keys_seen_by(segment: Segment) -> tuple[slice, list[slice]]:
    """Return the rows of a response's queries, and the runs of keys that they see.

    The last run is the queries' own, which they see causally. The prompt's own queries go with the response that
    adjoins it.
    """
    prompt, own = segment.places
    if segment.adjoins:
        whole = slice(prompt.start, own.stop)
        return whole, [whole]
    return own, [prompt, own]


class _Piece(NamedTuple):
    """Some of a response's queries, of all heads that share a key head, and the keys that they see."""

    lines: slice
    """The queries, and behind them as many others as the padded size needs."""
    num_lines: int
    """Number of the piece's own queries."""
    num_keys: int
    """Number of keys that the last query sees; later keys are not computed."""
    first_key: int
    """The last of the keys that the first query sees."""
    width: int
    """Number of keys, including keys behind them that no query sees."""

    @property
    def own_lines(self) -> slice:
        """The piece's own queries."""
        return slice(self.lines.start, self.lines.start + self.num_lines)


def _pieces(rows: slice, segment: Segment, groups: int, dtype: torch.dtype) -> Iterator[_Piece]:
    """Yield a response's queries in pieces of equal size, except for the last, so that few sizes occur."""
    queries, keys = rows.stop - rows.start, segment.prompt_length + segment.length
    number = max(1, -(-(queries - QUERIES_TOGETHER // 4) // QUERIES_TOGETHER))
    for piece in range(number):
        begin = piece * QUERIES_TOGETHER
        end = queries if piece + 1 == number else begin + QUERIES_TOGETHER
        first, num_keys = (rows.start + begin) * groups, keys - queries + end
        lines = slice(first, first + _padded_count(end - begin, dtype) * groups)
        yield _Piece(lines, (end - begin) * groups, num_keys, keys - queries + begin, _padded_count(num_keys, dtype))


def _padded_count(count: int, dtype: torch.dtype) -> int:
    """Round `count` up to the next padded number of queries or keys."""
    if dtype == torch.float32:
        return count
    step = max(2 * SIZES_AN_OCTAVE, 2 ** (count.bit_length() - 1) // SIZES_AN_OCTAVE)
    return -(-count // step) * step


def _by_key_head(states: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return (1, heads, tokens, head size) as (key heads, tokens, groups, head size)."""
    return states[0].unflatten(0, (key.shape[1], -1)).transpose(1, 2)


def _lines(states: torch.Tensor, key: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return (1, heads, tokens, head size) as (key heads, tokens * groups, head size).

    In bf16, zeros follow the last token, since the last piece may reach beyond it.
    """
    apart = _by_key_head(states, key)
    tokens, room = apart.shape[1], 0 if key.dtype == torch.float32 else MOST_MORE
    lines = states.new_empty(len(apart), tokens + room, *apart.shape[2:], dtype=dtype)
    lines[:, :tokens] = apart
    lines[:, tokens:] = 0
    return lines.flatten(1, 2)


def _by_token(states: torch.Tensor, heads: int) -> torch.Tensor:
    """Return (key heads, tokens * groups, head size) as (1, tokens, heads, head size)."""
    key_heads, size = states.shape[0], states.shape[2]
    return states.view(key_heads, -1, heads // key_heads, size).transpose(0, 1).reshape(1, -1, heads, size)


def _joined(states: torch.Tensor, runs: list[slice], dtype: torch.dtype) -> torch.Tensor:
    """Return the states of the runs, (key heads, keys, head size), with zeros behind them up to the padded size."""
    count = sum(run.stop - run.start for run in runs)
    more = _padded_count(count, dtype) - count
    parts = [states[:, run] for run in runs] + ([states.new_zeros(len(states), more, states.shape[2])] if more else [])
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _add_apart(whole: torch.Tensor, part: torch.Tensor, runs: list[slice]) -> None:
    """Add the states of consecutive keys to their runs in `whole`, (key heads, tokens, head size)."""
    begin = 0
    for run in runs:
        end = min(begin + run.stop - run.start, part.shape[1])
        whole[:, run.start : run.start + end - begin] += part[:, begin:end]
        begin = end


@functools.cache
def _no_future(size: int) -> torch.Tensor:
    """Return (size, 1, size), minus infinity where a key comes after a query; a smaller mask is its top-left corner."""
    return torch.full((size, size), -torch.inf).triu(1).unsqueeze(1)


def for_each_head(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Repeat (1, key heads, ...) as (1, heads, ...)."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def _for_each_key_head(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Sum over the heads that share a key head."""
    return states if groups == 1 else states.unflatten(1, (-1, groups)).sum(dim=2)


def _merged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: slice, runs: list[slice], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return output (1, heads, rows, head size) and log-sum-exp (1, heads, rows) over all runs, by the flash kernel."""
    groups = query.shape[1] // key.shape[1]
    parts = [
        _FLASH(  # type: ignore[misc]
            query[:, :, rows],
            for_each_head(key[:, :, run], groups),
            for_each_head(value[:, :, run], groups),
            0.0,
            run == rows,
            scale=scale,
        )
        for run in runs
    ]
    if len(parts) == 1:
        return parts[0]
    total = torch.logaddexp(parts[0][1], parts[1][1])
    probs = [(of_run - total).exp().unsqueeze(3) for _, of_run in parts]
    return (parts[0][0] * probs[0] + parts[1][0] * probs[1]).to(query.dtype), total


def _merged_backward(
    states: tuple[torch.Tensor, ...],
    gradients: tuple[torch.Tensor, torch.Tensor],
    rows: slice,
    runs: list[slice],
    scale: float,
) -> torch.Tensor:
    """Return the gradient of the queries, (1, heads, rows, head size), and add those of keys and values in place.

    Args:
        states: Gradient of the output, query, key, value, output, log-sum-exp.
        gradients: Gradients of keys and values to add to, each (key heads, tokens, head size).
        rows: Rows of the queries.
        runs: Runs of keys that they see.
        scale: Factor of the scores.
    """
    gradient, query, key, value, out, totals = states
    groups = query.shape[1] // key.shape[1]
    grad_query = torch.zeros_like(query[:, :, rows])
    for run in runs:
        parts = _FLASH_BACKWARD(  # type: ignore[misc]
            gradient[:, :, rows],
            query[:, :, rows],
            for_each_head(key[:, :, run], groups),
            for_each_head(value[:, :, run], groups),
            out[:, :, rows],
            totals[:, :, rows],
            0.0,
            run == rows,
            scale=scale,
        )
        grad_query += parts[0]
        for whole, part in zip(gradients, parts[1:], strict=True):
            whole[:, run] += _for_each_key_head(part, groups)[0]
    return grad_query
