"""Which models compute the same whether or not a prompt is padded on its left, told by what they are made of and not by their name.

Attention layers do: they mask the padding and take the positions that they are given. A state that runs over the tokens
reads padding too; virtual tokens need a place of their own beside it.
"""

import functools
import inspect
import logging
from typing import Any

from components.models.adapters import num_virtual_tokens

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

log = logging.getLogger(__name__)


def left_padding_is_exact(model: Any) -> bool:
    """Whether prompts may be padded on the left in a model's own forward.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
    """
    # peft puts virtual tokens before the padding, and takes no positions that would mend it.
    return not num_virtual_tokens(model) and _is_plain_attention(getattr(model, "module", model))


def decodes_in_batches(model: Any) -> bool:
    """Whether the sampler's own prefill, padding and cache fit a model, or a peft wrapper of one.

    The log says once why they do not.
    """
    if num_virtual_tokens(model) and model.peft_config["default"].peft_type == "PREFIX_TUNING" and _has_window(model):
        # The prefix lies before the padding, and a window counts positions, padding too.
        _say_once("the policy has a prefix and layers with a sliding window")
        return False
    return _is_plain_attention(model)


def _is_plain_attention(model: Any) -> bool:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        _say_once(f"{type(base).__name__} takes no positions")
        return False
    others = set(getattr(base.config.get_text_config(), "layer_types", None) or ()) - ATTENTION_LAYERS
    if others or getattr(base, "_is_stateful", False):
        _say_once(
            f"{type(base).__name__} has layers that are no plain attention ({', '.join(sorted(others)) or 'a running state'})"
        )
        return False
    return True


def _has_window(model: Any) -> bool:
    from transformers import DynamicCache

    return any(layer.is_sliding for layer in DynamicCache(config=model.get_base_model().config).layers)


@functools.cache
def _say_once(reason: str) -> None:
    log.warning(
        "%s: prompts are not padded on the left, and responses are sampled by transformers' own loop, which is slower",
        reason,
    )
