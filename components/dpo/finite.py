"""Stop on all ranks before the optimizer step if a loss or gradient is not finite, naming the pairs responsible."""

import math
from collections.abc import Sequence

import torch

from components.dpo.batches import Pair
from components.dpo.reference import PairLogps

MOST_NAMED = 10


class NonFiniteLoss(RuntimeError):
    """A loss or log-probability is NaN or infinite; the optimizer step was not made."""


class NonFiniteGradient(RuntimeError):
    """The gradient of a step with a finite loss is NaN or infinite; the optimizer step was not made."""


def refuse_non_finite_loss(
    means: dict[str, float], pairs: Sequence[Pair], finite: list[tuple[list[int], torch.Tensor]], what: str
) -> None:
    """Check a step's means, which are the same on every rank, so that all ranks stop together or none does.

    Args:
        means: Means over the step's pairs and over all ranks; a value that is not finite makes its mean so.
        pairs: All pairs of the data.
        finite: For each micro-batch of this rank, the indices of its pairs and whether each one's values are finite.
            Read only if a mean is not finite, so that a step does not wait for another transfer from the device.
        what: What was being done, for the message.

    Raises:
        NonFiniteLoss: A mean is not finite; names the pairs whose own values are not.
    """
    broken = {name: value for name, value in means.items() if not math.isfinite(value)}
    if not broken:
        return
    counts = torch.zeros(len(pairs), device=finite[0][1].device)
    for indices, values in finite:
        counts[torch.tensor(indices, device=counts.device)[~values]] = 1.0
    if torch.distributed.get_world_size() > 1:
        torch.distributed.all_reduce(counts)
    name, value = next(iter(broken.items()))
    found = [pairs[index] for index in counts.nonzero().flatten().tolist()]
    raise NonFiniteLoss(
        f"the {name} of {what} is {value}; the pairs responsible: {named(found)}. Look at them in the data; if they "
        "are sound, lower training.learning_rate, since the weights have diverged"
    )


def refuse_non_finite_gradient(norm: float, pairs: Sequence[Pair], what: str) -> None:
    """Check a step's gradient norm, which is the same on every rank.

    Raises:
        NonFiniteGradient: The norm is NaN or infinite; names all pairs of the step, since the norm does not show
            which of them is the cause.
    """
    if not math.isfinite(norm):
        raise NonFiniteGradient(
            f"the gradient of {what} is not finite, although its loss is; its pairs: {named(pairs)}. "
            "Lower training.learning_rate, or train in float32 (policy.dtype) if this is bfloat16"
        )


def refuse_non_finite_reference(logps: PairLogps, pairs: Sequence[Pair]) -> None:
    """Check the reference's log-probabilities before anything is trained on them.

    Raises:
        NonFiniteLoss: Some are not finite; names their pairs.
    """
    finite = torch.stack([torch.isfinite(values) for values in logps if values is not None]).all(dim=0)
    if not bool(finite.all()):
        found = [pairs[index] for index in (~finite).nonzero().flatten().tolist()]
        raise NonFiniteLoss(
            f"the reference's log-probabilities are not finite for {named(found)}: check these pairs and the "
            f"reference model"
        )


def named(pairs: Sequence[Pair]) -> str:
    """Return the table, row and prompt of the first `MOST_NAMED` pairs, and the number of the others, as text."""
    names = [pair.name for pair in pairs[:MOST_NAMED]]
    rest = len(pairs) - len(names)
    return "; ".join([*names, f"and {rest} more"] if rest else names) or "no pair"
