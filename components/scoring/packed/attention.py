"""Exact attention over a row of packed responses that share their prompts, by one of three equivalent methods.

On a CPU: plain products, or the CPU's flash kernel if a response is very long (`on_cpu`). On a GPU: torch's
variable-length flash attention, with the prompt in the keys but not in the queries. Elsewhere: plain attention with a
mask.
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

from components.scoring.packed import on_cpu
from components.scoring.packed.layout import Packed

NAME = "ratchet_packed"
_HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "is_causal",
    }
)


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
    """Compute attention over a packed row; transformers calls this in every layer like its own attention functions.

    Args:
        module: The layer's attention.
        query: (1, heads, tokens, head size).
        key: (1, key heads, tokens, head size); query heads share them in equal groups.
        value: As the keys.
        attention_mask: Mask of a call that is not packed.
        dropout: Dropout of the attention weights.
        scaling: Factor of the scores; None is one over the root of the head size.
        packed: Layout of prompts and responses; None means transformers' own attention.
        rest: Further arguments of the model.

    Returns:
        (1, tokens, heads, head size), and no weights.

    Raises:
        CannotPack: The model needs something that this attention does not compute.
    """
    if packed is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return result
    window = rest.pop("sliding_window", None)
    if window is not None and packed.longest > window:
        raise CannotPack(
            f"its sliding window of {window} tokens is shorter than a prompt and response of {packed.longest} tokens"
        )
    odd = sorted(name for name, setting in rest.items() if setting is not None and name not in _HARMLESS)
    if dropout or odd:
        raise CannotPack(f"its attention has {', '.join(odd) or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cuda" and query.dtype == torch.bfloat16:
        return _on_gpu(query, key, value, packed, scale), None
    if on_cpu.computes(query):
        return on_cpu.attention(query, key.to(query.dtype), value.to(query.dtype), packed, scale), None
    groups = query.shape[1] // key.shape[1]
    return _masked(query, on_cpu.for_each_head(key, groups), on_cpu.for_each_head(value, groups), packed, scale), None


def _masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Compute plain attention of every response over prompt and response, with a mask if the two do not adjoin."""
    out = torch.empty_like(query)
    out[:, :, packed.num_tokens :] = 0
    for segment in packed.in_order:
        prompt, own = segment.places
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


def _on_gpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, scale: float) -> torch.Tensor:
    """Compute flash attention; the keys repeat the prompt before every response that does not adjoin it."""
    from torch.nn.attention.varlen import varlen_attn

    places, of_queries, of_keys, longest_query = _varlen(packed, query.device)
    groups = query.shape[1] // key.shape[1]
    shared: dict[str, Any] = {}
    if groups > 1 and _takes_fewer_key_heads(varlen_attn):
        shared = {"enable_gqa": True}
    else:
        key, value = on_cpu.for_each_head(key, groups), on_cpu.for_each_head(value, groups)
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
    # torch 2.11 has the kernel, but not yet the argument.
    return "enable_gqa" in inspect.signature(varlen).parameters


def _varlen(packed: Packed, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Return each key's place, the running lengths of queries and keys, and the longest query; cached in the layout."""
    cached: tuple[torch.Tensor, torch.Tensor, torch.Tensor, int] | None = getattr(packed, "varlen", None)
    if cached is not None:
        return cached
    places: list[int] = []
    of_queries, of_keys = [0], [0]
    for segment in packed.in_order:
        prompt, own = segment.places
        places += range(prompt.start, prompt.stop)
        places += range(own.start, own.stop)
        of_queries.append(own.stop)
        of_keys.append(len(places))
    lengths = [end - begin for begin, end in itertools.pairwise(of_queries)]
    running = [torch.tensor(ends, dtype=torch.int32, device=device) for ends in (of_queries, of_keys)]
    varlen = (torch.tensor(places, device=device), running[0], running[1], max(lengths))
    packed.varlen = varlen  # type: ignore[attr-defined]
    return varlen


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
