"""The policy that is sampled from, its prompts, and the cases that are measured. Nothing is downloaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import EOS, FIRST, PROFILES, Shape
from transformers.utils import logging

SPREAD = 2.0
"""Standard deviation of the logits over the vocabulary: as far apart as a trained model's, so that a wrong temperature
would show."""
INITIAL = 0.02
"""Standard deviation of the head's entries, as transformers draws them."""


@dataclass(frozen=True)
class Case:
    """Responses per prompt, and whether lengths differ."""

    samples: int
    ragged: bool
    real: bool = False

    @property
    def stops(self) -> bool:
        """Whether an answer may end before the limit."""
        return self.ragged or self.real


MADE_UP = {f"{name}-{samples}": Case(samples, name == "ragged") for name in ("even", "ragged") for samples in (4, 8)}
"""Even: prompts of one length and no end token. Ragged: log-normal prompts, and answers that end at every token with
one probability."""
CASES = MADE_UP | {"real-4": Case(4, ragged=False, real=True)}
"""Real: a real model's own prompts and ends of turn."""


def save_policy(shape: Shape, directory: Path) -> None:
    """Write a model of random weights whose logits have the standard deviation `SPREAD`; the end token's is 0."""
    logging.disable_progress_bar()
    model = shape.build(torch.float32)
    with torch.no_grad():
        model.model.norm.weight.fill_(SPREAD / (INITIAL * shape.hidden**0.5))
        model.get_output_embeddings().weight[EOS] = 0.0
    model.save_pretrained(directory)


def end_bias(shape: Shape, mean: float) -> float:
    """Return the bias of the end token's logit that makes responses `mean` tokens long on average.

    Its own logit is 0 and the others are normal, so the sum of their exponentials is about V exp(spread^2 / 2).
    """
    return float(np.log(shape.vocabulary) + SPREAD**2 / 2 - np.log(mean - 1))


def end_after(model: Any, shape: Shape, mean: float) -> None:
    """Make responses `mean` tokens long on average, by a bias on the end token's logit.

    Geometric lengths by ordinary sampling.
    """
    head = model.get_output_embeddings()
    bias = torch.zeros(shape.vocabulary)
    bias[EOS] = end_bias(shape, mean)
    head.bias = torch.nn.Parameter(bias.to(head.weight.dtype), requires_grad=False)


def prompts(case: Case, count: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Return prompts of random tokens with hh-rlhf's lengths; in the even case, all have its median length."""
    chance, profile = np.random.default_rng(seed), PROFILES["hh-rlhf"]
    lengths = (
        chance.lognormal(np.log(profile.prompt), profile.spread if case.ragged else 0.0, count)
        .round()
        .clip(1)
        .astype(int)
    )
    return [chance.integers(FIRST, vocabulary, length).tolist() for length in lengths]
