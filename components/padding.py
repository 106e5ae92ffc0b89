"""Which models compute the same whether or not a prompt is padded on its left, told by their configuration and not by their name.

Attention layers do: they mask the padding and take the positions that they are given. A state that runs over the tokens reads padding
too; virtual tokens before the prompt would stand apart from it.
"""

import functools
import inspect
import logging
from typing import Any

from components.adapters import num_virtual_tokens

ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

log = logging.getLogger(__name__)


def left_padding_is_exact(model: Any) -> bool:
    """Whether prompts may be padded on the left; the log says once why where they may not.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
    """
    reason = _reason_against(getattr(model, "module", model))
    if reason is not None:
        _say_once(f"{reason}: prompts are not padded on the left, and responses are sampled by transformers' own loop, which is slower")
    return reason is None


def _reason_against(model: Any) -> str | None:
    if num_virtual_tokens(model):
        return "the policy has virtual tokens before its prompts"
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return f"{type(base).__name__} takes no positions"
    others = set(getattr(base.config.get_text_config(), "layer_types", None) or ()) - ATTENTION_LAYERS
    if others or getattr(base, "_is_stateful", False):
        return f"{type(base).__name__} has layers that are no plain attention ({', '.join(sorted(others)) or 'a running state'})"
    return None


@functools.cache
def _say_once(reason: str) -> None:
    log.warning("%s", reason)
