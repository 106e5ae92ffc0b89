"""Constraints on the policy: how far each response breaks a rule, and the multiplier that weighs it in the loss.

A preference loss says which of two answers is better; a rule holds whatever the pairs prefer. Each constraint returns a
violation per response, a differentiable number that is 0 if the rule is kept. It is added to the loss with a fixed
weight, or with a Lagrange multiplier. The multiplier rises while the mean violation is above its limit and falls while
it is below (dual ascent; Altman 1999, "Constrained Markov Decision Processes", chapter 3; for preference losses Dai et
al. 2023, arXiv 2310.12773). Knows no model and no batch layout.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from components.config import ConstraintsConfig


class Responses(NamedTuple):
    """Response tokens and their log-probabilities, each (responses, width). Entries outside the mask mean nothing."""

    token_ids: torch.Tensor
    mask: torch.Tensor
    """True for the tokens of a response. Responses begin at column 0."""
    logps: torch.Tensor
    """log pi(token | what stands before), in nats, with gradients."""
    end_logps: torch.Tensor
    """log pi(any token that ends the response | what stands before), in nats, with gradients."""
    judged: torch.Tensor
    """How far each response breaks the rule of `constraints.function`, (responses,), in [0, 1], without gradients."""


Constraint = Callable[[Responses], torch.Tensor]
"""Returns violations, (responses,), 0 if the rule is kept."""


def phrase_probability(responses: Responses, *, phrases: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the probability that the policy gives to the banned phrases of each response, (responses,), in [0, 1].

    For an occurrence at position t it is prod_j pi(phrase_j | x, y_<t, phrase_<j). The most likely occurrence of a
    response counts; without one the violation is 0. Both answers of a pair count, so a phrase that the pairs prefer is
    pushed down as well.

    Args:
        responses: The responses; (responses, width) tensors.
        phrases: Banned phrases as token ids. A text that can be tokenised in several ways is several phrases.
    """
    worst = torch.zeros(len(responses.token_ids), dtype=responses.logps.dtype, device=responses.logps.device)
    logps = responses.logps.masked_fill(~responses.mask, 0.0)
    for phrase in phrases:
        size = len(phrase)
        if not 0 < size <= responses.token_ids.shape[1]:
            continue
        same_tokens = responses.token_ids.unfold(1, size, 1) == torch.tensor(phrase, device=logps.device)
        occurs = same_tokens.all(dim=2) & responses.mask.unfold(1, size, 1).all(dim=2)
        probability = logps.unfold(1, size, 1).sum(dim=2).exp().masked_fill(~occurs, 0.0)
        worst = torch.maximum(worst, probability.max(dim=1).values)
    return worst


def overlong_probability(responses: Responses, *, max_tokens: int) -> torch.Tensor:
    """Return the probability of going on past the length ceiling, a mean over the positions past it, (responses,).

    It is the mean of 1 - pi(end | x, y_<t) over positions t > max_tokens that the response reaches, in [0, 1]. For a
    response that ends sooner it is 0.

    Args:
        responses: The responses; (responses, width) tensors.
        max_tokens: Tokens that a response may have, its end token not counted.
    """
    past = responses.mask.clone()
    past[:, :max_tokens] = False
    probability = (1 - responses.end_logps.exp()).masked_fill(~past, 0.0)
    return probability.sum(dim=1) / past.sum(dim=1).clamp(min=1)


def judged_probability(responses: Responses) -> torch.Tensor:
    """Return v(y) exp(1/|y| sum_t log pi(y_t | x, y_<t)) of each response y, (responses,), in [0, 1].

    v(y) is how far y breaks the rule, by the user's function, and has no gradient. The other factor is the geometric
    mean of the policy's probabilities of the tokens of y, so that a long response is pushed down like a short one.
    """
    lengths = responses.mask.sum(dim=1).clamp(min=1)
    mean_logps = responses.logps.masked_fill(~responses.mask, 0.0).sum(dim=1) / lengths
    return responses.judged * mean_logps.exp()


def constraints_of(config: ConstraintsConfig, *, encode: Callable[[str], list[int]]) -> dict[str, Constraint]:
    """Return the configured constraints by name.

    Args:
        config: The constraints section.
        encode: Turns a text into token ids, without special tokens.
    """
    constraints: dict[str, Constraint] = {}
    if config.banned_phrases:
        # Byte-level and sentence-piece tokenizers write a word differently within a sentence and at its beginning.
        texts = [variant for phrase in config.banned_phrases for variant in (phrase, f" {phrase}")]
        phrases = list(dict.fromkeys(tuple(encode(text)) for text in texts))
        constraints["banned_phrases"] = lambda responses: phrase_probability(responses, phrases=phrases)
    if config.max_tokens:
        constraints["max_tokens"] = lambda responses: overlong_probability(responses, max_tokens=config.max_tokens)
    if config.function:
        constraints["function"] = judged_probability
    return constraints


class Multipliers:
    """The weight of each constraint. Under a limit it is a Lagrange multiplier, which a resumed run needs again."""

    def __init__(self, config: ConstraintsConfig, names: Sequence[str]) -> None:
        self.config = config
        self.values = dict.fromkeys(names, config.weight)

    def update(self, rates: Mapping[str, float]) -> None:
        """Move each multiplier by dual ascent: lambda <- max(0, lambda + step (rate - limit)). A fixed weight stays.

        Args:
            rates: Mean violation of the optimizer step's responses, over all ranks, by constraint.
        """
        if self.config.mode == "penalty":
            return
        for name, rate in rates.items():
            self.values[name] = max(0.0, self.values[name] + self.config.step * (rate - self.config.limit))

    def restore(self, values: Mapping[str, float]) -> None:
        """Take up the multipliers of a checkpoint.

        Raises:
            ValueError: They are of other constraints.
        """
        if values.keys() != self.values.keys():
            other, own = sorted(values), sorted(self.values)
            raise ValueError(f"the checkpoint has multipliers for {other}, but this run has constraints {own}")
        self.values = dict(values)
