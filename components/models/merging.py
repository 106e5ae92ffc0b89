"""Fold a low-rank adapter into its base, so that the merged model scores as the unmerged one did.

If head and embedding are one tensor and either is adapted, the merge gives the head weights of its own first: what is
added to one would otherwise be added to both. Knows peft, and no stage.
"""

from typing import Any

import torch

from components.models.rounding import TIMES, in_fp32, root_mean_square
from components.models.trial_tokens import trial_tokens

TOLERANCE = 1e-3
"""Largest root mean square, in nats, of the differences between merged and unmerged log-probabilities in fp32."""
LENGTHS = (16, 7)
"""Tokens of each row on which both are compared."""


@torch.no_grad()
def merge(model: Any) -> Any:
    """Return the base of a peft model with its adapter merged.

    Raises:
        ValueError: The merged model scores tokens differently from the unmerged one.
    """
    base = model.get_base_model()
    rows = trial_tokens(base, LENGTHS)
    rounded = _logps(model, rows)
    with in_fp32(base):
        exact = _logps(model, rows)
    _untie(base)
    merged = model.merge_and_unload()
    with in_fp32(merged):
        error = root_mean_square(_logps(merged, rows) - exact)
    if not error <= max(TOLERANCE, TIMES * root_mean_square(rounded - exact)):
        raise ValueError(
            f"the adapter cannot be merged into its base: merged, {type(base).__name__} scores tokens differently by "
            f"{error:.3g} nats (root mean square); keep `lora` as it was, or begin another campaign"
        )
    return merged


def _logps(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Return the log-probabilities of all tokens of the vocabulary behind every token of the rows."""
    device = next(model.parameters()).device
    logits = [model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0].float() for row in rows]
    return torch.cat(logits).log_softmax(dim=-1)


def _untie(base: Any) -> None:
    """Give the head its own weights if they are the embedding's and either of the two is adapted."""
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    own = [getattr(layer, "base_layer", layer) for layer in layers]
    if own[1] is None or own[0].weight is not own[1].weight or own == layers:
        return
    own[1].weight = torch.nn.Parameter(own[1].weight.detach().clone(), requires_grad=own[1].weight.requires_grad)
    base.all_tied_weights_keys = {}
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False
