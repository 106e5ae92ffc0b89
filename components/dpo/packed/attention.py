"""Attention over a row of packed responses that share their prompts: exact, in three ways of one meaning.

On a CPU, a response's queries are taken some at a time, by plain products over the keys that they see; a very long one sees its prompt
and itself in two flash calls whose outputs are merged by their log-sum-exp, and the backward pass of each is given the merged output,
which is the gradient of the whole (as in ring attention, arXiv 2310.01889). On a GPU, torch's
variable-length flash attention takes queries without, and keys with, the prompt. Elsewhere plain attention with a mask.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from components.dpo.packed.layout import Packed, Segment

NAME = "ratchet_packed"
LONGEST_BLOCK = 1024
"""Longest prompt and response on a CPU whose attention weights are held for the backward pass; up to it the flash kernel is slower."""
QUERIES_TOGETHER = 128
"""Queries of a response on a CPU whose attention weights are one product."""
_ON_CPU = (torch.float32, torch.bfloat16)
_HARMLESS = frozenset(
    {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits", "is_causal"}
)
_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_FLASH_BACKWARD = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


class CannotPack(Exception):
    """A model's attention has something that packed attention does not compute."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: Packed | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer, as its own attention functions are called.

    Args:
        module: The layer's attention.
        query: (1, heads, tokens, head size).
        key: (1, key heads, tokens, head size); query heads share them in equal groups.
        value: As the keys.
        attention_mask: Of a call that is not packed.
        dropout: Of attention weights.
        scaling: Factor of the scores; None is one over the root of the head size.
        packed: Where prompts and responses lie; None makes it transformers' own attention.
        rest: What else a model hands over.

    Returns:
        (1, tokens, heads, head size), and no weights.

    Raises:
        CannotPack: The model asks for something that this attention does not do.
    """
    if packed is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return result
    window = rest.pop("sliding_window", None)
    if window is not None and packed.longest > window:
        raise CannotPack(f"a sliding window of {window} tokens, and a prompt and response of {packed.longest}")
    odd = sorted(name for name, given in rest.items() if given is not None and name not in _HARMLESS)
    if dropout or odd:
        raise CannotPack(f"its attention has {', '.join(odd) or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cuda" and query.dtype == torch.bfloat16:
        return _on_gpu(query, key, value, packed, scale), None
    if query.device.type == "cpu" and query.dtype in _ON_CPU and _FLASH is not None and _FLASH_BACKWARD is not None:
        merged: torch.Tensor = _OnCpu.apply(query, key.to(query.dtype), value.to(query.dtype), packed, scale)
        return merged, None
    groups = query.shape[1] // key.shape[1]
    return _masked(query, _for_each_head(key, groups), _for_each_head(value, groups), packed, scale), None


def _masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Plain attention of every response over prompt and response, with a mask where the two do not adjoin."""
    out = torch.empty_like(query)
    out[:, :, packed.num_tokens :] = 0
    for segment in packed.in_order:
        prompt, own = _places(segment)
        if segment.adjoins:
            whole = slice(prompt.start, own.stop)
            out[:, :, whole] = scaled_dot_product_attention(
                query[:, :, whole], key[:, :, whole], value[:, :, whole], is_causal=True, scale=scale
            )
            continue
        keys, values = (torch.cat([states[:, :, prompt], states[:, :, own]], dim=2) for states in (key, value))
        seen = torch.ones(segment.length, segment.prompt_length + segment.length, dtype=torch.bool, device=query.device)
        out[:, :, own] = scaled_dot_product_attention(
            query[:, :, own], keys, values, attn_mask=seen.tril(segment.prompt_length), scale=scale
        )
    return out.transpose(1, 2)


class _OnCpu(torch.autograd.Function):
    """Response by response; a short one by plain products, which are faster than the flash kernel there, and a long one by the kernel."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
        _, heads, tokens, size = query.shape
        out = query.new_empty(1, tokens, heads, size)
        out[:, packed.num_tokens :] = 0
        totals = query.new_empty(1, heads, tokens, dtype=torch.float32)
        weights: list[torch.Tensor] = []
        for segment in packed.in_order:
            rows, runs = _seen(segment)
            if _is_long(segment):
                result, total = _merged(query, key, value, rows, runs, scale)
                out[:, rows], totals[:, :, rows] = result.transpose(1, 2), total
                continue
            queries, keys, values = query[0, :, rows], _joined(key, runs), _joined(value, runs)
            for some, seen in _pieces(queries.shape[1], keys.shape[1]):
                result, kept = _block(queries[:, some], keys[:, :seen], values[:, :seen], scale)
                out[0, rows][some] = result.transpose(0, 1)
                weights.append(kept)
        ctx.save_for_backward(query, key, value, out, totals, *weights)
        ctx.packed, ctx.scale = packed, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        query, key, value, out, totals, *weights = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        of_query[:, :, ctx.packed.num_tokens :] = 0
        gradient, out, kept = gradient.transpose(1, 2), out.transpose(1, 2), iter(weights)
        for segment in ctx.packed.in_order:
            rows, runs = _seen(segment)
            if _is_long(segment):
                _merged_backward((gradient, query, key, value, out, totals), (of_query, of_key, of_value), rows, runs, ctx.scale)
                continue
            queries, keys, values = query[0, :, rows], _joined(key, runs), _joined(value, runs)
            of_keys, of_values = torch.zeros_like(keys), torch.zeros_like(values)
            for some, seen in _pieces(queries.shape[1], keys.shape[1]):
                parts = _block_backward(
                    gradient[0, :, rows][:, some], queries[:, some], keys[:, :seen], values[:, :seen], next(kept), ctx.scale
                )
                of_query[0, :, rows][:, some] = parts[0]
                of_keys[:, :seen] += parts[1]
                of_values[:, :seen] += parts[2]
            _add_apart(of_key, of_keys, runs)
            _add_apart(of_value, of_values, runs)
        return of_query, of_key, of_value, None, None


def _is_long(segment: Segment) -> bool:
    return segment.prompt_length + segment.length > LONGEST_BLOCK


def _pieces(queries: int, keys: int) -> Iterator[tuple[slice, int]]:
    """A response's queries some at a time, and how many of its keys they see: what comes after them is not computed."""
    number = max(1, round(queries / QUERIES_TOGETHER))
    for piece in range(number):
        begin, end = queries * piece // number, queries * (piece + 1) // number
        yield slice(begin, end), keys - queries + end


def _seen(segment: Segment) -> tuple[slice, list[slice]]:
    """The queries that stand for a response, and the runs of keys that they see; the last run is the queries' own, causally.

    The prompt's own queries go with the response that adjoins it.
    """
    prompt, own = _places(segment)
    if segment.adjoins:
        whole = slice(prompt.start, own.stop)
        return whole, [whole]
    return own, [prompt, own]


def _joined(states: torch.Tensor, runs: list[slice]) -> torch.Tensor:
    """(heads, keys, head size) of the runs."""
    return states[0, :, runs[0]] if len(runs) == 1 else torch.cat([states[0, :, run] for run in runs], dim=1)


def _add_apart(whole: torch.Tensor, part: torch.Tensor, runs: list[slice]) -> None:
    begin = 0
    for run in runs:
        end = begin + run.stop - run.start
        whole[0, :, run] += part[:, begin:end]
        begin = end


def _block(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and attention weights; the last query sees all keys, and each one before it one fewer.

    Query heads that share a key head are rows of one product, (key heads, groups * queries, keys). The scores are fp32, as a flash
    kernel's are, whatever the precision of the states.
    """
    queries = query.shape[1]
    scores = torch.bmm(_grouped(query, key).float() * scale, key.float().transpose(1, 2))
    scores.view(*query.shape[:2], -1)[:, :, -queries:].add_(_no_future(queries))
    weights = scores.softmax(dim=2).to(value.dtype)
    return torch.bmm(weights, value).view(query.shape), weights


def _block_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weights: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gradients = _grouped(gradient, key)
    of_value = torch.bmm(weights.transpose(1, 2), gradients)
    of_weights = torch.bmm(gradients, value.transpose(1, 2))
    of_scores = torch._softmax_backward_data(of_weights.float(), weights.float(), 2, torch.float32).mul_(scale).to(query.dtype)
    return torch.bmm(of_scores, key).view(query.shape), torch.bmm(of_scores.transpose(1, 2), _grouped(query, key)), of_value


def _grouped(states: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """(heads, queries, head size) as (key heads, groups * queries, head size)."""
    return states.reshape(key.shape[0], -1, states.shape[2])


@functools.cache
def _no_future(size: int) -> torch.Tensor:
    """(size, size) minus infinity where a key comes after a query."""
    return torch.full((size, size), -torch.inf).triu(1)


def _for_each_head(states: torch.Tensor, groups: int) -> torch.Tensor:
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
            _for_each_head(key[:, :, run], groups),
            _for_each_head(value[:, :, run], groups),
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
    made: tuple[torch.Tensor, ...], gradients: tuple[torch.Tensor, ...], rows: slice, runs: list[slice], scale: float
) -> None:
    """Adds to the gradients of query, key and value what the gradient of the output gives them.

    Args:
        made: Gradient of the output, query, key, value, output, log-sum-exp.
        gradients: Of query (written), key and value (added to).
        rows: The queries.
        runs: The keys that they see.
        scale: Factor of the scores.
    """
    gradient, query, key, value, out, totals = made
    of_query, of_key, of_value = gradients
    groups = query.shape[1] // key.shape[1]
    of_query[:, :, rows] = 0
    for run in runs:
        parts = _FLASH_BACKWARD(  # type: ignore[misc]
            gradient[:, :, rows],
            query[:, :, rows],
            _for_each_head(key[:, :, run], groups),
            _for_each_head(value[:, :, run], groups),
            out[:, :, rows],
            totals[:, :, rows],
            0.0,
            run == rows,
            scale=scale,
        )
        of_query[:, :, rows] += parts[0]
        of_key[:, :, run] += _for_each_key_head(parts[1], groups)
        of_value[:, :, run] += _for_each_key_head(parts[2], groups)


def _on_gpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Queries lie as the tokens do; keys have the prompt once more before every response that does not adjoin it."""
    from torch.nn.attention.varlen import varlen_attn

    places, of_queries, of_keys, longest_query = _varlen(packed, query.device)
    groups = query.shape[1] // key.shape[1]
    shared: dict[str, Any] = {}
    if groups > 1 and _takes_fewer_key_heads(varlen_attn):
        shared = {"enable_gqa": True}
    else:
        key, value = _for_each_head(key, groups), _for_each_head(value, groups)
    queries, keys, values = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    out = varlen_attn(
        queries.contiguous(),
        keys.index_select(0, places),
        values.index_select(0, places),
        of_queries,
        of_keys,
        longest_query,
        packed.longest,
        scale=scale,
        window_size=(-1, 0),
        **shared,
    )
    assert isinstance(out, torch.Tensor)
    return out.unsqueeze(0)


@functools.cache
def _takes_fewer_key_heads(varlen: Callable[..., Any]) -> bool:
    # torch 2.11 has the kernel and not yet the argument.
    return "enable_gqa" in inspect.signature(varlen).parameters


def _varlen(packed: Packed, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Where each key is read from, and the running lengths of queries and keys; made once a layout, and kept there."""
    kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor, int] | None = getattr(packed, "varlen", None)
    if kept is not None:
        return kept
    places: list[int] = []
    of_queries, of_keys = [0], [0]
    for segment in packed.in_order:
        prompt, own = _places(segment)
        places += range(prompt.start, prompt.stop)
        places += range(own.start, own.stop)
        of_queries.append(own.stop)
        of_keys.append(len(places))
    lengths = [end - begin for begin, end in itertools.pairwise(of_queries)]
    running = [torch.tensor(ends, dtype=torch.int32, device=device) for ends in (of_queries, of_keys)]
    made = (torch.tensor(places, device=device), running[0], running[1], max(lengths))
    packed.varlen = made  # type: ignore[attr-defined]
    return made


def _places(segment: Segment) -> tuple[slice, slice]:
    prompt = slice(segment.prompt_start, segment.prompt_start + segment.prompt_length)
    return prompt, slice(segment.start, segment.start + segment.length)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
