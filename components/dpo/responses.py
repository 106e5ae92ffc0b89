"""Pairs taken apart into single responses, each desirable or not, and unpaired responses. Knows no model."""

from collections.abc import Sequence

from components.config import TrainingConfig
from components.dpo.batches import Pair
from components.dpo.losses import RESPONSE_LOSSES, Loss
from components.dpo.losses.interface import ResponseLosses
from components.dpo.losses.unpaired import balanced_weights


def mismatched_answers(pairs: Sequence[Pair]) -> list[list[int]]:
    """For each pair an answer to another prompt: that of the next pair with one, so that the reference can score it beforehand."""
    following = [*range(1, len(pairs)), 0][: len(pairs)]
    for index in reversed(range(len(pairs) - 1)):
        if pairs[following[index]].prompt == pairs[index].prompt:
            following[index] = following[index + 1]
    return [pairs[index].answer for index in following]


def response_balance(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Factors under which desirable and undesirable answers of the training pairs count alike (`balanced_weights`).

    Raises:
        ValueError: All answers are of one kind.
    """
    desirable = [p for pair in pairs for p in desirability(pair) if p is not None]
    return balanced_weights(sum(desirable), len(desirable) - sum(desirable))


def desirability(pair: Pair) -> tuple[float | None, float | None]:
    """Probability that the answer on each side is desirable; None where there is no answer."""
    return pair.p if pair.chosen else None, 1 - pair.p if pair.rejected else None


def responses_loss(pairs: Sequence[Pair], training: TrainingConfig) -> Loss[ResponseLosses] | None:
    """The loss over single responses, where some of them are unpaired; None where all are pairs."""
    single = next((pair for pair in pairs if pair.is_unpaired), None)
    if single is None:
        return None
    others = [name for name in training.losses if name not in RESPONSE_LOSSES] or list(training.added_losses)
    if others:
        takers = " or ".join(RESPONSE_LOSSES)
        raise ValueError(f"{single.name} is an unpaired response, and training.loss {others[0]} takes pairs: set {takers}")
    return RESPONSE_LOSSES[training.loss]
