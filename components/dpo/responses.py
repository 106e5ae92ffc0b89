"""Pairs taken apart into single responses: their two sides, which of them is desirable, and unpaired responses.

Knows no model.
"""

from collections.abc import Sequence

import torch

from components.config import TrainingConfig
from components.dpo.batches import Pair
from components.dpo.losses import RESPONSE_LOSSES, Loss
from components.dpo.losses.interface import ResponseLosses
from components.dpo.losses.unpaired import balanced_weights


def mismatched_answers(pairs: Sequence[Pair]) -> list[list[int]]:
    """Return an answer to another prompt for each pair.

    It is the answer of the next pair that has another prompt, so that the reference can score it beforehand.
    """
    following = [*range(1, len(pairs)), 0][: len(pairs)]
    for index in reversed(range(len(pairs) - 1)):
        if pairs[following[index]].prompt == pairs[index].prompt:
            following[index] = following[index + 1]
    return [pairs[index].answer for index in following]


def response_balance(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the factors under which desirable and undesirable answers of the training pairs count alike.

    `balanced_weights` computes them.

    Raises:
        ValueError: All answers are of one kind.
    """
    desirable = [p for pair in pairs for p in desirability(pair) if p is not None]
    return balanced_weights(sum(desirable), len(desirable) - sum(desirable))


def desirability(pair: Pair) -> tuple[float | None, float | None]:
    """Return the probability that the answer on each side is desirable; None for a side without an answer."""
    return pair.p if pair.chosen else None, 1 - pair.p if pair.rejected else None


def responses_loss(pairs: Sequence[Pair], training: TrainingConfig) -> Loss[ResponseLosses] | None:
    """Return the loss over single responses if some are unpaired; None if all are pairs.

    Raises:
        ValueError: There is an unpaired response and the configured loss takes pairs.
    """
    single = next((pair for pair in pairs if pair.is_unpaired), None)
    if single is None:
        return None
    others = [name for name in training.losses if name not in RESPONSE_LOSSES] or list(training.added_losses)
    if others:
        takers = " or ".join(RESPONSE_LOSSES)
        raise ValueError(
            f"{single.name} is an unpaired response, but training.loss {others[0]} takes pairs: set it to {takers}"
        )
    return RESPONSE_LOSSES[training.loss]


class Sides:
    """The answers of some pairs, and the arrangement of their values as (2, pairs): chosen first."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        """Keep the answers in the order of the pairs, each of which has an answer on at least one side."""
        self.num_pairs = len(pairs)
        both = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
        self.places = [place for place, (_, answer) in enumerate(both) if answer]
        """Place of each answer among 2 x pairs places."""
        self.prompts = [both[place][0] for place in self.places]
        self.answers = [both[place][1] for place in self.places]
        violations = [pair.violations[0] for pair in pairs] + [pair.violations[1] for pair in pairs]
        self.violations = [violations[place] for place in self.places]
        """How far each answer breaks the rule of `constraints.function`."""

    def spread(self, values: torch.Tensor, *, gap: float = 0.0) -> torch.Tensor:
        """Put values of the answers, (answers,), in their places, (2, pairs), with `gap` in places without an answer.

        Differentiable.
        """
        full = values.new_full((2 * self.num_pairs,), gap)
        return full.scatter(0, torch.tensor(self.places, device=values.device), values).view(2, self.num_pairs)

    def present(self, device: torch.device) -> torch.Tensor:
        """Return 1 for each place with an answer and 0 for each without one, (2, pairs)."""
        return self.spread(torch.ones(len(self.places), device=device))

    def shared_lengths(self) -> torch.Tensor:
        """Return, for each answer, the length in tokens of the shorter answer of its pair, (answers,).

        For an unpaired response it is its own length.
        """
        lengths = self.spread(torch.tensor([len(answer) for answer in self.answers]).float(), gap=float("inf"))
        return lengths.min(dim=0).values.repeat(2)[self.places].long()
