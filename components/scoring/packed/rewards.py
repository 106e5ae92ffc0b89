"""Rewards of conversations by a sequence classifier with one output, in packed rows.

Each prompt is read once for all its responses.
"""

from collections.abc import Callable
from typing import Any

import torch

from components.models.adapters import unwrapped
from components.scoring.packed.attention import CannotPack
from components.scoring.packed.forward import packed_forward, replaced
from components.scoring.packed.layout import Packed
from components.scoring.packed.trial import Trial, packing

TOLERANCE = 1e-4
"""Largest difference of a hidden state between packed and plain forward in a trial in fp32, as a share of the largest
hidden state."""


def longest_rewarded(model: Any) -> int:
    """Return the tokens of the longest prompt and response whose reward is exact in a packed row.

    The result is 0 if none is exact; the reason is logged.

    Args:
        model: A sequence classifier, a peft wrapper of one, or an engine around either.
    """

    def trial(prompts: list[list[int]], responses: list[list[int]]) -> Trial:
        head = getattr(unwrapped(model), "score", None)
        if not isinstance(head, torch.nn.Module):
            raise CannotPack("it has no head named score")
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]

        def plain() -> torch.Tensor:
            with replaced(head, lambda hidden: hidden):
                return _plain(model, texts)

        def packed() -> torch.Tensor:
            layout = Packed(prompts, responses, next(model.parameters()).device, unwrapped(model).dtype, ends=True)
            return _read(model, layout, lambda hidden: hidden)

        return Trial(
            plain=plain,
            packed=packed,
            errors=lambda hidden, exact: (hidden - exact) / exact.abs().max(),
            tolerance=TOLERANCE,
            off="its hidden states are off by",
            amount="{:.2%}",
        )

    return packing(model, trial).longest


def packed_rewards(model: Any, layout: Packed) -> torch.Tensor:
    """Return the reward of each response.

    Args:
        model: A model whose `longest_rewarded` is not exceeded.
        layout: Prompts and responses, made with `ends`.

    Returns:
        (responses,), in the model's own precision.
    """
    head = unwrapped(model).score
    return _read(model, layout, lambda hidden: type(head).forward(head, hidden)).squeeze(1)


def _read(model: Any, layout: Packed, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return a head's outputs for each response's last hidden state, (responses, outputs)."""

    def at_the_ends(hidden: torch.Tensor) -> torch.Tensor:
        outputs = head(hidden.squeeze(0).index_select(0, layout.places))
        # The model returns the outputs of the token that it takes for the last one, so they stand at every token.
        return outputs.reshape(1, 1, -1).expand(1, hidden.shape[1], -1)

    return packed_forward(model, unwrapped(model).score, layout, at_the_ends).view(len(layout.segments), -1)


def _plain(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """Return the model's outputs for each text alone, (texts, outputs)."""
    settings, device = unwrapped(model).config.get_text_config(), next(model.parameters()).device
    # With a padding token, the model would take a last token that equals it for padding, and read an earlier one.
    own, settings.pad_token_id = settings.pad_token_id, None
    try:
        return torch.cat([model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits for ids in texts])
    finally:
        settings.pad_token_id = own
