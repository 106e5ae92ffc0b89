"""Attention over a row of packed responses that share their prompts: exact, in three ways of one meaning.

On a CPU, a long response sees its prompt and itself in two flash calls whose outputs are merged by their log-sum-exp, and the backward
pass of each is given the merged output, which is the gradient of the whole (as in ring attention, arXiv 2310.01889). On a GPU, torch's
variable-length flash attention takes queries without, and keys with, the prompt. Elsewhere plain attention with a mask.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from components.dpo.packed.layout import Packed, Segment

NAME = "ratchet_packed"
LONGEST_BLOCK = {torch.float32: 384, torch.bfloat16: 768}
"""Longest prompt and response on a CPU whose attention weights are held whole; above it the flash kernel is as fast."""
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
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if query.device.type == "cpu" and query.dtype in LONGEST_BLOCK and _FLASH is not None and _FLASH_BACKWARD is not None:
        merged: torch.Tensor = _OnCpu.apply(query, key.to(query.dtype), value.to(query.dtype), packed, scale)
        return merged, None
    return _masked(query, key, value, packed, scale), None


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
        weights: list[torch.Tensor | None] = []
        for segment in packed.in_order:
            rows, keys = _seen(segment)
            if segment.prompt_length + segment.length <= LONGEST_BLOCK[query.dtype]:
                result, kept = _block(query[0, :, rows], _joined(key, keys), _joined(value, keys), scale)
                out[0, rows] = result.transpose(0, 1)
            else:
                result, total = _merged(query, key, value, rows, keys, scale)
                out[:, rows], totals[:, :, rows], kept = result.transpose(1, 2), total, None
            weights.append(kept)
        ctx.save_for_backward(query, key, value, out, totals, *(kept for kept in weights if kept is not None))
        ctx.packed, ctx.scale = packed, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        query, key, value, out, totals, *weights = ctx.saved_tensors
        of_query, of_key, of_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        of_query[:, :, ctx.packed.num_tokens :] = 0
        gradient, out, kept = gradient.transpose(1, 2), out.transpose(1, 2), iter(weights)
        for segment in ctx.packed.in_order:
            rows, keys = _seen(segment)
            if segment.prompt_length + segment.length <= LONGEST_BLOCK[query.dtype]:
                parts = _block_backward(
                    gradient[0, :, rows], query[0, :, rows], _joined(key, keys), _joined(value, keys), next(kept), ctx.scale
                )
                of_query[0, :, rows] = parts[0]
                _add_apart(of_key, parts[1], keys)
                _add_apart(of_value, parts[2], keys)
                continue
            for number, seen in enumerate(keys):
                parts = _FLASH_BACKWARD(  # type: ignore[misc]
                    gradient[:, :, rows],
                    query[:, :, rows],
                    key[:, :, seen],
                    value[:, :, seen],
                    out[:, :, rows],
                    totals[:, :, rows],
                    0.0,
                    seen == rows,
                    scale=ctx.scale,
                )
                of_query[:, :, rows] = parts[0] if number == 0 else of_query[:, :, rows] + parts[0]
                of_key[:, :, seen] += parts[1]
                of_value[:, :, seen] += parts[2]
        return of_query, of_key, of_value, None, None


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
    """Output and attention weights; the scores are fp32, as a flash kernel's are, whatever the precision of the states."""
    scores = torch.baddbmm(_hidden(query.shape[1], key.shape[1]), query.float(), key.float().transpose(1, 2), alpha=scale)
    weights = scores.softmax(dim=2).to(value.dtype)
    return torch.bmm(weights, value), weights


def _block_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weights: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    of_value = torch.bmm(weights.transpose(1, 2), gradient)
    of_weights = torch.bmm(gradient, value.transpose(1, 2))
    of_scores = torch._softmax_backward_data(of_weights.float(), weights.float(), 2, torch.float32).mul_(scale).to(query.dtype)
    return torch.bmm(of_scores, key), torch.bmm(of_scores.transpose(1, 2), query), of_value


@functools.cache
def _no_future(size: int) -> torch.Tensor:
    return torch.full((size, size), -torch.inf).triu(1)


def _hidden(queries: int, keys: int) -> torch.Tensor:
    """(queries, keys) minus infinity where a key comes after a query, if the last of both are the same token."""
    return _no_future(max(LONGEST_BLOCK.values()))[keys - queries : keys, :keys]


def _merged(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: slice, runs: list[slice], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (1, heads, rows, head size) and log-sum-exp (1, heads, rows) over all runs of keys."""
    parts = [_FLASH(query[:, :, rows], key[:, :, run], value[:, :, run], 0.0, run == rows, scale=scale) for run in runs]  # type: ignore[misc]
    if len(parts) == 1:
        return parts[0]
    total = torch.logaddexp(parts[0][1], parts[1][1])
    shares = [(of_run - total).exp().unsqueeze(3) for _, of_run in parts]
    return (parts[0][0] * shares[0] + parts[1][0] * shares[1]).to(query.dtype), total


def _on_gpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Queries lie as the tokens do; keys have the prompt once more before every response that does not adjoin it."""
    from torch.nn.attention.varlen import varlen_attn

    places, of_queries, of_keys, longest_query = _varlen(packed, query.device)
    groups = query.shape[1] // key.shape[1]
    shared: dict[str, Any] = {}
    if groups > 1 and _takes_fewer_key_heads(varlen_attn):
        shared = {"enable_gqa": True}
    elif groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
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
