"""Whether a model reads from left to right: in others, a token's probability depends on the tokens behind it."""

from typing import Any

import torch

from components.models.adapters import unwrapped
from components.models.rounding import LOW
from components.models.trial_tokens import trial_tokens

SHARE, LOW_SHARE = 1e-4, 0.05
"""Largest change of earlier logits by a later token, as a share of their standard deviation: in fp32, and in a lower
precision, in which a product of other size (an expert's) may round otherwise."""


@torch.no_grad()
def check_causal(model: Any) -> None:
    """Try whether a token changes the logits before it.

    Raises:
        ValueError: It does, so the model (BERT, say) cannot be sampled from or trained on preferences.
    """
    ((*before, first, second),) = trial_tokens(unwrapped(model), [12])
    logits = [
        model(input_ids=torch.tensor([[*before, last]], device=model.device), use_cache=False).logits[0, :-1].float()
        for last in (first, second)
    ]
    change = float((logits[0] - logits[1]).square().mean().sqrt() / logits[0].std())
    if first != second and change > (LOW_SHARE if model.dtype in LOW else SHARE):
        raise ValueError(
            f"{type(unwrapped(model)).__name__} is not a causal language model (a later token changes its earlier "
            f"logits by {change:.2g} standard deviations): name a model that was trained to predict the next token"
        )
