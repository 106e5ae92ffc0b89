"""A key-value cache for sampling: copied for each response after one prefill, with room for the tokens to come.

transformers' dynamic cache copies the keys and values of all positions in every layer at every token, and again when
rows are dropped. Here a step writes one column, and dropping rows moves only the rows that fill the gaps.
"""

from typing import Any, NamedTuple

import torch
from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from components.generation.prefill import Prefilled, holds_states


class Compaction(NamedTuple):
    """A plan that makes the running rows adjacent when some are done.

    The rows at `sources` move to `slots`, then the first `num_rows` rows stay.
    """

    slots: torch.Tensor
    sources: torch.Tensor
    num_rows: int

    def apply(self, rows: torch.Tensor) -> torch.Tensor:
        """Compact a tensor along its first dimension, in its own memory."""
        rows[self.slots] = rows[self.sources]
        return rows[: self.num_rows]


def plan_compaction(running: list[bool], device: torch.device) -> Compaction:
    """Plan the fewest moves that make the rows that are still running adjacent."""
    num_rows = sum(running)
    slots = [place for place in range(num_rows) if not running[place]]
    sources = [place for place in range(num_rows, len(running)) if running[place]]
    return Compaction(
        torch.tensor(slots, dtype=torch.long, device=device),
        torch.tensor(sources, dtype=torch.long, device=device),
        num_rows,
    )


class CopiedCache:
    """Decodes a batch of responses with a copy of the prompt's cache for each of them.

    Args:
        prefilled: The prefilled prompts; the layers of their cache are replaced.
        samples: Number of responses per prompt, adjacent in the batch.
        room: Largest number of tokens of a response.

    Raises:
        ValueError: The model has no cache of keys and values, or more than that (a recurrent state, say).
    """

    def __init__(self, prefilled: Prefilled, *, samples: int, room: int) -> None:
        kinds = {type(layer) for layer in prefilled.cache.layers} if prefilled.cache is not None else {type(None)}
        if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer, DummyLayer}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ValueError(
                f"the policy's cache has layers of type {names}, which sampling cannot copy per response: "
                "use a model that has attention layers only"
            )
        self.model, self.cache = prefilled.model, prefilled.cache
        # A layer that holds nothing reads another layer's keys and values, and has nothing of its own to repeat.
        self.cache.layers = [
            ReservedLayer(layer, samples, room) if holds_states(layer) else layer for layer in prefilled.cache.layers
        ]
        mask = prefilled.mask
        self.filled, self.padded = mask.shape[1], not bool(mask.all())
        self.mask = torch.cat([mask, mask.new_ones(len(mask), room)], dim=1).repeat_interleave(samples, dim=0)

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return logits (responses, vocabulary) after one more token per response; `positions` is (responses, 1)."""
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

    def compact(self, compaction: Compaction) -> None:
        """Drop the finished responses."""
        self.mask = compaction.apply(self.mask)
        for layer in self.cache.layers:
            if isinstance(layer, ReservedLayer):
                layer.compact(compaction)


class ReservedLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, positions, head size), in buffers with free room at the end.

    To the model it behaves like the layer that it copies, with or without a sliding window.
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
        """Add the states of new positions; return the states of all positions that the new ones attend to."""
        start = self._first_visible() - (self.seen - self.filled)
        end = self.filled + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.filled : end] = states
        self.seen += end - self.filled
        self.filled = end
        self.keys, self.values = (buffer[:, :, start:end] for buffer in self.buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return the number of positions seen so far, inside or outside of a sliding window."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of positions that the next update returns, and the first of them."""
        return self.seen + query_length - self._first_visible(), self._first_visible()

    def compact(self, compaction: Compaction) -> None:
        """Drop the finished rows."""
        for place, buffer in enumerate(self.buffers):
            compaction.apply(buffer[:, :, : self.filled])
            self.buffers[place] = buffer[: compaction.num_rows]

    def _first_visible(self) -> int:
        return 0 if self.window is None else max(0, self.seen - self.window + 1)


def _reserve(states: torch.Tensor, samples: int, room: int) -> torch.Tensor:
    rows, heads, filled, size = states.shape
    buffer = states.new_empty(rows * samples, heads, filled + room, size)
    buffer[:, :, :filled] = states.repeat_interleave(samples, dim=0)
    return buffer
