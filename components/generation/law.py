"""The law of the samples: how a token is drawn from logits, and when a response ends. Knows no model."""

from typing import Literal, NamedTuple

import torch

Ending = tuple[list[int], Literal["stop", "length"]]
"""Tokens of a response, the stop token included, and why it ended."""
NOT_FINITE = "the policy's logits are not finite: set policy.dtype to float32, or lower training.learning_rate"


class Law(NamedTuple):
    """What is sampled from: the model's distribution after temperature, then top-k, then top-p, until a stop token or the limit."""

    temperature: float
    """Divides the logits; above 0."""
    top_p: float
    """Smallest share of probability that the admitted tokens reach, in (0, 1]; 1 admits all."""
    top_k: int
    """Number of most likely tokens that are admitted; 0 admits all."""
    max_new_tokens: int
    """Longest response in tokens, at least 1."""
    stop_ids: frozenset[int]
    """Tokens that end a response."""


def pick_tokens(logits: torch.Tensor, uniforms: torch.Tensor, law: Law) -> torch.Tensor:
    """Draws one token a row by inverting its cumulative distribution at a uniform number.

    Tokens tied with the last one that top-k or top-p admits are admitted too, so the law does not hang on a sort's order. At one
    uniform number, equal distributions give the same token, and close ones mostly do where few tokens have most of the probability.

    Args:
        logits: (rows, vocabulary), any precision; the softmax is in float32 and its running sum in float64.
        uniforms: (rows,) float64 in [0, 1).
        law: Temperature, top-k and top-p.

    Returns:
        (rows,) token ids; -1 where a row's logits hold NaN or positive infinity.
    """
    scores = logits.float()
    # Subtracting the maximum first keeps the smallest temperatures finite.
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / law.temperature
    if 0 < law.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(law.top_k, dim=-1).values[:, -1:], -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if law.top_p < 1.0:
        ranked = probabilities.sort(dim=-1, descending=True).values
        mass_before = ranked.cumsum(dim=-1, dtype=torch.float64) - ranked
        least = ranked.masked_fill(mass_before >= law.top_p, torch.inf).amin(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # A uniform below 1 times the total stays below the total in float64 too, so the token found has some probability.
    picked = torch.searchsorted(cumulative, (uniforms * total)[:, None], right=True).squeeze(1)
    return torch.where(total.isfinite(), picked, -1)
