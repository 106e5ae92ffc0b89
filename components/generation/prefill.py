"""Prefill: run a batch of prompts up to their last logits and a filled cache, with virtual tokens if there are any."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from components.models.adapters import num_virtual_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens that are prefilled at once, padding included: few on a CPU, since that pads least (measured), and many on a
GPU, which must be kept busy."""


class Prefilled(NamedTuple):
    """The state of decoding after the prompts."""

    model: Any
    """Decodes further tokens: the model, or the base model under virtual tokens, which the cache then holds."""
    logits: torch.Tensor
    """(prompts, vocabulary) after the last token."""
    cache: Any
    mask: torch.Tensor
    """(prompts, positions in the cache), False at padding."""


def prefill(model: "PreTrainedModel", prompts: list[list[int]], pad_id: int) -> Prefilled:
    """Run prompts with padding on the left.

    If the model has virtual tokens, they are at the positions that peft gives them.

    Many prompts are run in pieces, each as wide as its longest prompt, so that the layers' temporary memory does not
    grow with the number of prompts.
    """
    pieces = [_padded(model, piece, pad_id) for piece in _pieces(prompts, MOST_TOKENS[model.device.type])]
    return pieces[0] if len(pieces) == 1 else _joined(pieces)


def holds_states(layer: Any) -> bool:
    """Return whether a layer of a filled cache has keys and values of its own."""
    return layer.is_initialized and not isinstance(layer, DummyLayer)


def _pieces(prompts: list[list[int]], most_tokens: int) -> Iterator[list[list[int]]]:
    """Yield neighbouring prompts of at most `most_tokens` tokens, padding included; at least one prompt each."""
    piece: list[list[int]] = []
    for prompt in prompts:
        if piece and (len(piece) + 1) * max(len(prompt), *map(len, piece)) > most_tokens:
            yield piece
            piece = []
        piece.append(prompt)
    yield piece


def _joined(pieces: list[Prefilled]) -> Prefilled:
    """Join the pieces to one batch that is as wide as the widest.

    The cache is rebuilt layer by layer, and each piece's layer is emptied.
    """
    width = max(piece.mask.shape[1] for piece in pieces)
    mask = torch.cat([pad(piece.mask, (width - piece.mask.shape[1], 0), value=False) for piece in pieces])
    cache = pieces[0].cache
    for number, layer in enumerate(cache.layers if cache is not None else ()):
        if not holds_states(layer):
            continue
        if not isinstance(layer, DynamicLayer):
            break  # the decoder refuses such a layer by its name
        parts = [piece.cache.layers[number] for piece in pieces]
        held = max(part.keys.shape[2] for part in parts)
        keys, values = (
            torch.cat([pad(states, (0, 0, held - states.shape[2], 0)) for states in states_of_parts])
            for states_of_parts in ([part.keys for part in parts], [part.values for part in parts])
        )
        for part in parts:
            part.keys = part.values = None
        layer.keys, layer.values = keys, values
        if isinstance(layer, DynamicSlidingWindowLayer):
            layer.cumulative_length = width
    return Prefilled(pieces[0].model, torch.cat([piece.logits for piece in pieces]), cache, mask)


def _padded(model: "PreTrainedModel", prompts: list[list[int]], pad_id: int) -> Prefilled:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor(
        [[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts], device=model.device
    )
    if not num_virtual_tokens(model):
        return _run(model, {"input_ids": ids}, mask, first=0)
    return (_after_prefix if _has_prefix(model) else _after_embeddings)(model, ids, mask)


def _has_prefix(model: Any) -> bool:
    return bool(model.peft_config["default"].peft_type == "PREFIX_TUNING")


def _after_prefix(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Prefilled:
    """Run prompts after a prefix, which is the beginning of the cache."""
    count = num_virtual_tokens(model)
    inputs = {"input_ids": ids, "past_key_values": model.get_prompt(len(ids), max_cache_len=-1)}
    return _run(model.get_base_model(), inputs, torch.cat([mask.new_ones(len(mask), count), mask], dim=1), first=count)


def _after_embeddings(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> Prefilled:
    """Run prompts after virtual tokens, which stand between padding and prompt as the beginning of a longer prompt."""
    virtual = model.get_prompt(batch_size=len(ids))
    words = model.word_embeddings(ids)
    count, width = virtual.shape[1], ids.shape[1]
    padding = (~mask).sum(dim=1, keepdim=True)
    columns = torch.arange(width + count, device=ids.device).expand(len(ids), -1)
    behind = columns - padding  # 0 where the first virtual token stands
    place = torch.where(behind < 0, columns, (columns - count).clamp(min=0))
    rows = torch.arange(len(ids), device=ids.device).unsqueeze(1)
    is_virtual = (behind >= 0) & (behind < count)
    own = virtual.to(words.dtype)[rows, behind.clamp(0, count - 1)]
    embeddings = torch.where(is_virtual.unsqueeze(2), own, words[rows, place])
    return _run(model.get_base_model(), {"inputs_embeds": embeddings}, behind >= 0, first=0)


def _run(model: Any, inputs: dict[str, Any], mask: torch.Tensor, *, first: int) -> Prefilled:
    """Run inputs; `mask` covers the `first` positions that are already in the cache and the positions of the inputs."""
    output = model(
        **inputs,
        # Without padding no mask is needed, which lets attention take its fast kernels.
        attention_mask=None if bool(mask.all()) else mask,
        position_ids=(mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, first:],
        use_cache=True,
        logits_to_keep=1,
    )
    return Prefilled(model, output.logits[:, -1], getattr(output, "past_key_values", None), mask)
