"""A key-value cache whose room is reserved once: a step writes one column instead of copying every earlier one.

transformers' dynamic cache concatenates keys and values of all positions in every layer at every token; on a CPU that was
measured at four fifths of the decoding time of a small model.
"""

from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import Cache


def fork(cache: "Cache", *, samples: int, room: int) -> None:
    """Repeats every row of a prefilled cache `samples` times, next to each other, and reserves `room` further positions.

    Raises:
        ValueError: The cache holds more than keys and values (a recurrent state, say), or its layers are of another kind.
    """
    kinds = {type(layer) for layer in cache.layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"the policy's cache has layers of type {names}, which sampling cannot fork: use a model with attention layers only")
    # A layer that was never filled reads another layer's keys and values, and has nothing to repeat.
    cache.layers = [ReservedLayer(layer, samples, room) if layer.is_initialized else layer for layer in cache.layers]


class ReservedLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, positions, head size), in buffers with free room at the end.

    Behaves as the dynamic layer that it is made from, full or sliding.
    """

    def __init__(self, layer: CacheLayerMixin, samples: int, room: int) -> None:
        super().__init__()
        self.window = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        self.is_sliding = self.window is not None
        self.seen = layer.get_seq_length()
        self.filled = layer.keys.shape[-2]
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.buffers = [_reserve(states, samples, room) for states in (layer.keys, layer.values)]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
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
        """Positions seen so far, whether or not a sliding window still holds them."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of positions that the next update returns, and the first of them."""
        return self.seen + query_length - self._first_visible(), self._first_visible()

    def close_ranks(self, holes: torch.Tensor, movers: torch.Tensor, count: int) -> None:
        """Moves the rows `movers` into the places `holes`, and keeps the first `count` rows."""
        for buffer in self.buffers:
            buffer[holes, :, : self.filled] = buffer[movers, :, : self.filled]
        self.buffers = [buffer[:count] for buffer in self.buffers]

    def _first_visible(self) -> int:
        return 0 if self.window is None else max(0, self.seen - self.window + 1)


def _reserve(states: torch.Tensor, samples: int, room: int) -> torch.Tensor:
    rows, heads, filled, size = states.shape
    buffer = states.new_empty(rows * samples, heads, filled + room, size)
    buffer[:, :, :filled] = states.repeat_interleave(samples, dim=0)
    return buffer
