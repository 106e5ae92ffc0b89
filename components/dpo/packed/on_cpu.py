"""Attention over a packed row on a CPU: exact, by plain products over the keys that queries see.

A very long response sees its prompt and itself in two flash calls whose outputs are merged by their log-sum-exp, and the backward pass of
each is given the merged output, which is the gradient of the whole (as in ring attention, arXiv 2310.01889).
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch

from components.dpo.packed.layout import Packed, Segment

LONGEST_BLOCK = 1024
"""Longest prompt and response whose attention weights are held for the backward pass; up to it the flash kernel is slower."""
QUERIES_TOGETHER = 128
"""Queries of a response whose attention weights are one product."""
DTYPES = (torch.float32, torch.bfloat16)
_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def computes(query: torch.Tensor) -> bool:
    """Whether this is the way for queries of their kind."""
    return query.device.type == "cpu" and query.dtype in DTYPES and _FLASH is not None and _FLASH_BACKWARD is not None


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Each response over its prompt and itself.

    Args:
        query: (1, heads, tokens, head size).
        key: (1, key heads, tokens, head size) of the same precision; query heads share them in equal groups.
        value: As the keys.
        packed: Where prompts and responses lie.
        scale: Factor of the scores.

    Returns:
        (1, tokens, heads, head size).
    """
    out: torch.Tensor = _OnCpu.apply(query, key, value, packed, scale)
    return out


class _OnCpu(torch.autograd.Function):
    """Queries of heads that share a key head lie beside each other, row by row, so that those of some rows are one matrix."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
        _, heads, tokens, _ = query.shape
        groups = heads // key.shape[1]
        # The scores are fp32, as a flash kernel's are, whatever the precision of the states.
        queries, keys, values = _by_key_head(query, key).float() * scale, key[0].float(), value[0].contiguous()
        made = queries.new_empty(queries.shape, dtype=query.dtype)
        made[:, packed.num_tokens * groups :] = 0
        totals = query.new_empty(1, heads, tokens, dtype=torch.float32)
        weights: list[torch.Tensor] = []
        for segment in packed.in_order:
            rows, runs = _seen(segment)
            if _is_long(segment):
                result, totals[:, :, rows] = _merged(query, key, value, rows, runs, scale)
                made[:, _lines(rows, groups)] = _by_key_head(result, key)
                continue
            seen, carried = _joined(keys, runs).transpose(1, 2), _joined(values, runs)
            for some, last in _pieces(rows, seen.shape[2]):
                lines = _lines(some, groups)
                scores = torch.bmm(queries[:, lines], seen[:, :, :last])
                length = some.stop - some.start
                scores.view(len(keys), length, groups, last)[..., -length:].add_(_no_future(length))
                weights.append(scores.softmax(dim=2).to(query.dtype))
                made[:, lines] = torch.bmm(weights[-1], carried[:, :last])
        out = _by_token(made, heads)
        ctx.save_for_backward(query, key, value, out, totals, *weights)
        ctx.packed, ctx.scale = packed, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        query, key, value, out, totals, *weights = ctx.saved_tensors
        heads, kept = query.shape[1], iter(weights)
        groups = heads // key.shape[1]
        states = gradient.transpose(1, 2), query, key, value, out.transpose(1, 2), totals
        gradients, queries = _by_key_head(states[0], key), _by_key_head(query, key)
        keys, values = key[0].contiguous(), value[0].contiguous()
        of_query, of_key, of_value = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        of_query[:, ctx.packed.num_tokens * groups :] = 0
        for segment in ctx.packed.in_order:
            rows, runs = _seen(segment)
            if _is_long(segment):
                result = _merged_backward(states, (of_key, of_value), rows, runs, ctx.scale)
                of_query[:, _lines(rows, groups)] = _by_key_head(result, key)
                continue
            seen, carried = _joined(keys, runs), _joined(values, runs).transpose(1, 2)
            for some, last in _pieces(rows, seen.shape[1]):
                lines, shares = _lines(some, groups), next(kept)
                of_shares = torch.bmm(gradients[:, lines], carried[:, :, :last])
                of_scores = torch._softmax_backward_data(of_shares, shares, 2, shares.dtype).mul_(ctx.scale)
                of_query[:, lines] = torch.bmm(of_scores, seen[:, :last])
                _add_apart(of_key, torch.bmm(of_scores.transpose(1, 2), queries[:, lines]), runs)
                _add_apart(of_value, torch.bmm(shares.transpose(1, 2), gradients[:, lines]), runs)
        return _by_token(of_query, heads).transpose(1, 2), of_key.unsqueeze(0), of_value.unsqueeze(0), None, None


def _is_long(segment: Segment) -> bool:
    return segment.prompt_length + segment.length > LONGEST_BLOCK


def _seen(segment: Segment) -> tuple[slice, list[slice]]:
    """The queries that stand for a response, and the runs of keys that they see; the last run is the queries' own, causally.

    The prompt's own queries go with the response that adjoins it.
    """
    prompt, own = segment.places
    if segment.adjoins:
        whole = slice(prompt.start, own.stop)
        return whole, [whole]
    return own, [prompt, own]


def _pieces(rows: slice, keys: int) -> Iterator[tuple[slice, int]]:
    """A response's queries some at a time, and how many of its keys they see: what comes after them is not computed."""
    queries = rows.stop - rows.start
    number = max(1, round(queries / QUERIES_TOGETHER))
    for piece in range(number):
        begin, end = queries * piece // number, queries * (piece + 1) // number
        yield slice(rows.start + begin, rows.start + end), keys - queries + end


def _by_key_head(states: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, head size) as (key heads, tokens * groups, head size)."""
    key_heads, size = key.shape[1], states.shape[3]
    return states.view(key_heads, -1, *states.shape[2:]).transpose(1, 2).reshape(key_heads, -1, size)


def _by_token(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(key heads, tokens * groups, head size) as (1, tokens, heads, head size)."""
    key_heads, size = states.shape[0], states.shape[2]
    return states.view(key_heads, -1, heads // key_heads, size).transpose(0, 1).reshape(1, -1, heads, size)


def _lines(rows: slice, groups: int) -> slice:
    return slice(rows.start * groups, rows.stop * groups)


def _joined(states: torch.Tensor, runs: list[slice]) -> torch.Tensor:
    """(key heads, keys, head size) of the runs."""
    return states[:, runs[0]] if len(runs) == 1 else torch.cat([states[:, run] for run in runs], dim=1)


def _add_apart(whole: torch.Tensor, part: torch.Tensor, runs: list[slice]) -> None:
    """Adds to the runs of (key heads, tokens, head size) what belongs to the first of their keys."""
    begin = 0
    for run in runs:
        end = min(begin + run.stop - run.start, part.shape[1])
        whole[:, run.start : run.start + end - begin] += part[:, begin:end]
        begin = end


@functools.cache
def _no_future(size: int) -> torch.Tensor:
    """(size, 1, size) minus infinity where a key comes after a query."""
    return torch.full((size, size), -torch.inf).triu(1).unsqueeze(1)


def for_each_head(states: torch.Tensor, groups: int) -> torch.Tensor:
    """(1, key heads, ...) as (1, heads, ...)."""
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


def _for_each_key_head(states: torch.Tensor, groups: int) -> torch.Tensor:
    """Sums over the heads that share a key head."""
    return states if groups == 1 else states.unflatten(1, (-1, groups)).sum(dim=2)


def _merged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: slice, runs: list[slice], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (1, heads, rows, head size) and log-sum-exp (1, heads, rows) over all runs of keys, by the flash kernel."""
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
    shares = [(of_run - total).exp().unsqueeze(3) for _, of_run in parts]
    return (parts[0][0] * shares[0] + parts[1][0] * shares[1]).to(query.dtype), total


def _merged_backward(
    states: tuple[torch.Tensor, ...], gradients: tuple[torch.Tensor, torch.Tensor], rows: slice, runs: list[slice], scale: float
) -> torch.Tensor:
    """Gradient of the queries, (1, heads, rows, head size); those of their keys and values are added to what is there.

    Args:
        states: Gradient of the output, query, key, value, output, log-sum-exp.
        gradients: Of keys and values, (key heads, tokens, head size).
        rows: The queries.
        runs: The keys that they see.
        scale: Factor of the scores.
    """
    gradient, query, key, value, out, totals = states
    groups = query.shape[1] // key.shape[1]
    of_query = torch.zeros_like(query[:, :, rows])
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
        of_query += parts[0]
        for whole, part in zip(gradients, parts[1:], strict=True):
            whole[:, run] += _for_each_key_head(part, groups)[0]
    return of_query
