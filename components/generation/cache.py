"""A key-value cache that is made for sampling.

Forked after one prefill, with room reserved, and cheap to drop finished rows from.

transformers' dynamic cache copies the keys and values of all positions in every layer at every token, and again when
rows are dropped; here a step writes one column, and dropping moves only the rows that fill the gaps.
"""

from typing import Any, NamedTuple

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from components.generation.prefill import Prefilled


class Compaction(NamedTuple):
    """How rows close ranks when some are done.

    Those at `sources` go to the places `slots`, then the first `kept` rows stay.
    """

    slots: torch.Tensor
    sources: torch.Tensor
    kept: int

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Closes the ranks of a tensor's first dimension, in its own memory."""
        rows[self.slots] = rows[self.sources]
        return rows[: self.kept]


def plan_closing(running: list[bool], device: torch.device) -> Compaction:
    """Plans which of the rows still running move, so that they end up next to each other; as few as possible do."""
    kept = sum(running)
    slots = [place for place in range(kept) if not running[place]]
    sources = [place for place in range(kept, len(running)) if running[place]]
    return Compaction(
        torch.tensor(slots, dtype=torch.long, device=device),
        torch.tensor(sources, dtype=torch.long, device=device),
        kept,
    )


class CopiedCache:
    """What decodes a batch of responses with a copy of its prompt's cache for each of them.

    Args:
        begun: The prefilled prompts; the layers of its cache are replaced.
        samples: Responses of each prompt, next to each other.
        room: Tokens that a response may take.

    Raises:
        ValueError: The model keeps no cache of keys and values, or more than that (a recurrent state, say).
    """

    def __init__(self, begun: Prefilled, *, samples: int, room: int) -> None:
        kinds = {type(layer) for layer in begun.cache.layers} if begun.cache is not None else {type(None)}
        if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(
                f"the policy's cache has layers of type {names}, which sampling cannot fork: use a model of attention layers only"
            )
        self.model, self.cache = begun.model, begun.cache
        # A layer that was never filled reads another layer's keys and values, and has nothing of its own to repeat.
        self.cache.layers = [
            ReservedLayer(layer, samples, room) if layer.is_initialized else layer for layer in begun.cache.layers
        ]
        self.filled, self.padded = begun.mask.shape[1], not bool(begun.mask.all())
        self.mask = torch.cat([begun.mask, begun.mask.new_ones(len(begun.mask), room)], dim=1).repeat_interleave(
            samples, dim=0
        )

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (responses, vocabulary) after one token more of each response; `positions` is (responses, 1)."""
        self.filled += 1
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask[:, : self.filled] if self.padded else None,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def close_ranks(self, closing: Compaction) -> None:
        """Drops the finished responses."""
        self.mask = closing.apply(self.mask)
        for layer in self.cache.layers:
            if isinstance(layer, ReservedLayer):
                layer.close_ranks(closing)


class ReservedLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, positions, head size), in buffers with free room at the end.

    To the model it behaves as the layer that it is made from, with a sliding window or without.
    """

    def __init__(self, layer: CacheLayerMixin, samples: int, room: int) -> None:
        super().__init__()
        self.window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        self.is_sliding = self.window is not None
        self.seen = layer.get_seq_length()
        self.filled = layer.keys.shape[-2]
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.buffers = [_reserve(states, samples, room) for states in (layer.keys, layer.values)]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the states of new positions; returns those of all positions that the new ones may look at."""
        start = self._first_visible() - (self.seen - self.filled)
        end = self.filled + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.filled : end] = states
        self.seen += end - self.filled
        self.filled = end
        self.keys, self.values = (buffer[:, :, start:end] for buffer in self.buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions seen so far, whether or not a sliding window still shows them."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of positions that the next update returns, and the first of them."""
        return self.seen + query_length - self._first_visible(), self._first_visible()

    def close_ranks(self, closing: Compaction) -> None:
        """Drops the finished rows."""
        for place, buffer in enumerate(self.buffers):
            closing.apply(buffer[:, :, : self.filled])
            self.buffers[place] = buffer[: closing.kept]

    def _first_visible(self) -> int:
        return 0 if self.window is None else max(0, self.seen - self.window + 1)


def _reserve(states: torch.Tensor, samples: int, room: int) -> torch.Tensor:
    rows, heads, filled, size = states.shape
    buffer = states.new_empty(rows * samples, heads, filled + room, size)
    buffer[:, :, :filled] = states.repeat_interleave(samples, dim=0)
    return buffer
