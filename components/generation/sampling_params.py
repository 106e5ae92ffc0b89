"""The law of the samples: how a token is drawn from logits, and when a response ends. Knows no model."""

from typing import Literal, NamedTuple

import torch

from components.generation.stop_strings import StopStrings

Ending = tuple[list[int], Literal["stop", "length"]]
"""Tokens of a response, including the stop token or those of a stop string, and why it ended."""
FIRST_LOOK, BLOCK = 256, 128
"""Tokens that top-p sorts at first, and tokens per block whose probabilities are summed before a token is searched."""
NOT_FINITE = "the policy's logits are not finite: set policy.dtype to float32, or lower training.learning_rate"


class SamplingParams(NamedTuple):
    """The law of the samples.

    Tokens come from the model's distribution after temperature, then top-k, then top-p, until a stop token, a stop
    string or the limit.
    """

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
    stops: StopStrings | None = None
    """Texts that end a response; None for none."""

    def ended(self, token_ids: list[int]) -> bool:
        """Whether a response ends with its last token."""
        return token_ids[-1] in self.stop_ids or (self.stops is not None and self.stops.ended(token_ids))


def sample_tokens(logits: torch.Tensor, uniforms: torch.Tensor, law: SamplingParams) -> torch.Tensor:
    """Draw one token per row by inverting its cumulative distribution at a uniform number.

    Tokens tied with the last one that top-k or top-p admits are admitted too, so the law does not depend on the order
    of a sort. At one uniform number, equal distributions give the same token; close ones mostly do if few tokens have
    most of the probability.

    Args:
        logits: (rows, vocabulary), any precision; the softmax is in float32 and its running sum in float64.
        uniforms: (rows,) float64 in [0, 1).
        law: Temperature, top-k and top-p.

    Returns:
        (rows,) token ids; -1 if a row's logits hold NaN or positive infinity.
    """
    scores = logits.float()
    # Subtracting the maximum first keeps the smallest temperatures finite.
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / law.temperature
    if 0 < law.top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < scores.topk(law.top_k, dim=-1).values[:, -1:], -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if law.top_p < 1.0:
        probabilities = probabilities.masked_fill(probabilities < _least_admitted(probabilities, law.top_p), 0.0)
    return _inverted(probabilities, uniforms)


def _least_admitted(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the probability of the last token that top-p admits, (rows, 1).

    Sorts more tokens only if some row needs them.
    """
    vocabulary, looked = probabilities.shape[-1], min(FIRST_LOOK, probabilities.shape[-1])
    while True:
        ranked = probabilities.topk(looked, dim=-1).values
        mass_before = ranked.cumsum(dim=-1, dtype=torch.float64) - ranked
        if looked == vocabulary or bool((mass_before[:, -1] >= top_p).all()):
            return ranked.masked_fill(mass_before >= top_p, torch.inf).amin(dim=-1, keepdim=True)
        looked = min(8 * looked, vocabulary)


def _inverted(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the token at which each row's running sum passes its uniform number.

    Searches the block of tokens first, then the token in it.
    """
    rows, vocabulary = probabilities.shape
    size = min(BLOCK, vocabulary)
    blocks = torch.nn.functional.pad(probabilities, (0, -vocabulary % size)).view(rows, -1, size)
    after = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    total = after[:, -1]
    wanted = (uniforms * total)[:, None]
    # A uniform below 1 times the total stays below the total in float64 too; NaN finds no block.
    block = torch.searchsorted(after, wanted, right=True).clamp_(max=after.shape[-1] - 1)
    before = torch.where(block > 0, after.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, size)).squeeze(1)
    place = torch.searchsorted(before + inside.cumsum(dim=-1, dtype=torch.float64), wanted, right=True)
    # Rounding may carry the number past the block's last token of any probability.
    last = (inside > 0).long().mul_(torch.arange(size, device=inside.device)).amax(dim=-1, keepdim=True)
    picked = (block * size + torch.minimum(place, last)).squeeze(1)
    return torch.where(total.isfinite(), picked, -1)
