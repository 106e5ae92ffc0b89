"""A model's forward over a packed row with something else in the place of its head, and whether a model may be packed.

Found by trying.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from components.models.adapters import num_virtual_tokens
from components.scoring.packed.attention import NAME, CannotPack
from components.scoring.packed.last_layer import only_what_is_read
from components.scoring.packed.layout import Packed

PROMPTS = ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (3, 1), (3, 1), (3, 1))
RESPONSES = ((6, 7), (5, 4, 3, 2), (4,), (2, 2, 6), (7, 1))
DTYPES = (torch.float32, torch.bfloat16)

log = logging.getLogger(__name__)
Trial = Callable[[list[list[int]], list[list[int]]], Callable[[], None]]
"""Takes prompts and responses, computes what a model makes of them without packing, and returns what compares a packed
row with it: that raises CannotPack where they differ."""
_known: "WeakKeyDictionary[torch.nn.Module, int]" = WeakKeyDictionary()


def longest_exact(model: Any, trial: Trial) -> int:
    """Tokens of the longest prompt and response that the model computes exactly in a packed row.

    0 if it does not, which the log says.

    Args:
        model: A transformers model, a peft wrapper of one, or an engine around either.
        trial: What decides, once a model.
    """
    base = unwrapped(model)
    if num_virtual_tokens(model):
        # They come and go with an adapter, and the base beneath may be packed without them.
        return 0
    if base not in _known:
        _known[base], reason = _tried(model, base, trial)
        if reason:
            log.warning("%s: answers are scored in padded batches, which is exact and slower", reason)
    return _known[base]


def packed_forward(
    model: Any, head: torch.nn.Module, layout: Packed, in_its_place: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """What the model returns as logits with something else in the place of its head.

    Where weights are sharded, the head's are there.

    Args:
        model: As of `longest_exact`, which was not 0.
        head: The module whose forward is replaced.
        layout: The row.
        in_its_place: Takes hidden states (1, tokens, size) and returns (1, tokens, anything).
    """
    with replaced(head, in_its_place), only_what_is_read(unwrapped(model), layout):
        output = model(
            input_ids=layout.input_ids,
            position_ids=layout.position_ids,
            # Four dimensions: transformers makes none of its own, and the attention does not read it.
            attention_mask=torch.ones(1, 1, 1, 1, device=layout.input_ids.device),
            use_cache=False,
            packed=layout,
        )
    made: torch.Tensor = output.logits
    return made


@contextlib.contextmanager
def replaced(head: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within it, a module computes something else."""
    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def unwrapped(model: Any) -> Any:
    """The transformers model in an engine or a peft wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def _tried(model: Any, base: Any, trial: Trial) -> tuple[int, str]:
    """The longest row, and why there is none."""
    name = type(base).__name__
    if base.config._attn_implementation not in ("sdpa", NAME):
        return 0, f"{name} takes {base.config._attn_implementation} attention"
    if base.dtype not in DTYPES:
        return 0, f"{name} computes in {base.dtype}"
    before = base.config._attn_implementation
    try:
        compare = trial([list(prompt) for prompt in PROMPTS], [list(response) for response in RESPONSES])
    except CannotPack as error:
        return 0, f"{name} cannot be packed: {error}"
    base.set_attn_implementation(NAME)
    try:
        compare()
    except (CannotPack, TypeError, ImportError, RuntimeError) as error:
        # The model, this torch or this device has no way to compute it.
        base.set_attn_implementation(before)
        return 0, f"{name} cannot be packed: {error}"
    return _shortest_window(base), ""


def _shortest_window(base: Any) -> int:
    from transformers import DynamicCache

    layers = DynamicCache(config=base.config).layers
    return min((layer.sliding_window for layer in layers if layer.is_sliding), default=2**31)
