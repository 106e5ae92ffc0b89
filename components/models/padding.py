"""Which models compute the same with and without padding on the left: their layers decide, not their names.

Attention layers do: they mask the padding and take the positions as arguments. A state that runs over the tokens reads
padding too, and virtual tokens need a place of their own beside the padding.
"""

import functools
import inspect
import logging
from typing import Any

from components.models.adapters import num_virtual_tokens, unwrapped

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

log = logging.getLogger(__name__)


def left_padding_is_exact(model: Any) -> bool:
    """Return whether prompts may be padded on the left in a model's own forward.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
    """
    # peft puts virtual tokens before the padding, and does not take positions that would correct this.
    if num_virtual_tokens(model):
        return False
    reason = _reason_against_padding(model)
    if reason:
        _warn_once(reason)
    return not reason


def reason_against_batches(model: Any) -> str:
    """Return why the sampler's own prefill, padding and cache do not fit a model; empty if they may."""
    if num_virtual_tokens(model) and model.peft_config["default"].peft_type == "PREFIX_TUNING" and _has_window(model):
        # The prefix lies before the padding, and a window counts positions, padding too.
        return "the policy has a prefix and layers with a sliding window"
    return _reason_against_padding(model)


def _reason_against_padding(model: Any) -> str:
    base = unwrapped(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return f"{type(base).__name__} does not take position ids"
    others = set(getattr(base.config.get_text_config(), "layer_types", None) or ()) - ATTENTION_LAYERS
    if others or getattr(base, "_is_stateful", False):
        kinds = ", ".join(sorted(others)) or "a running state"
        return f"{type(base).__name__} has layers that are not plain attention ({kinds})"
    return ""


def _has_window(model: Any) -> bool:
    from transformers import DynamicCache

    return any(
        getattr(layer, "is_sliding", False) for layer in DynamicCache(config=model.get_base_model().config).layers
    )


@functools.cache
def _warn_once(reason: str) -> None:
    log.warning(
        "%s: prompts are not padded on the left",
        reason,
    )
