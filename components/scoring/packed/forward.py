"""A model's forward over a packed row with another function in place of its head."""

from collections.abc import Callable
from typing import Any

import torch

from components.models.adapters import unwrapped
from components.scoring.head import replaced
from components.scoring.packed.last_layer import only_what_is_read
from components.scoring.packed.layout import Packed


def packed_forward(
    model: Any, head: torch.nn.Module, layout: Packed, in_its_place: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the model's logits with another function in place of its head's forward.

    If weights are sharded, the head's are gathered while the function runs.

    Args:
        model: A transformers model that a trial found exact in packed rows, a peft wrapper of one, or an engine around
            either.
        head: The module whose forward is replaced.
        layout: The row.
        in_its_place: Takes hidden states (1, tokens, size) and returns (1, tokens, anything).
    """
    with replaced(head, in_its_place), only_what_is_read(unwrapped(model), layout):
        output = model(
            input_ids=layout.input_ids,
            position_ids=layout.position_ids,
            # With four dimensions transformers makes no mask of its own; the attention does not read this one.
            attention_mask=torch.ones(1, 1, 1, 1, device=layout.input_ids.device),
            use_cache=False,
            packed=layout,
        )
    logits: torch.Tensor = output.logits
    return logits
