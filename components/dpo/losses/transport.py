"""AOT: losses that compare distributions over a batch instead of pairs. Each returns one loss per pair.

- `beta`: strength of the pull towards the reference, above 0.
- `p`: all ones. A quantile mixes pairs, so one pair's probability has no place in it.
- `label_smoothing`: eps, the assumed share of flipped labels, in [0, 0.5).

Quantiles of a batch of one are the values themselves. A larger batch estimates them better.
"""

import torch

from components.dpo.losses.labels import cross_entropy
from components.dpo.losses.quantities import PerPair


def aot_loss(
    policy_delta: PerPair,
    reference_delta: PerPair,
    *,
    beta: float,
    p: PerPair,
    label_smoothing: float,
) -> PerPair:
    """Return the paired AOT loss: `sigmoid_loss` between equal quantiles of the policy's and the reference's margins.

    Melnyk et al. 2024 (arXiv 2406.05882). The policy's margins log pi(y_w|x) - log pi(y_l|x) and the reference's are
    sorted apart, then compared rank by rank. A pair's loss is that of the rank of its policy margin.

    Raises:
        ValueError: p is not 1 everywhere.
    """
    _refuse_soft_labels(p)
    return _by_rank(policy_delta, reference_delta, beta, label_smoothing)


def aot_unpaired_loss(
    chosen_log_ratios: PerPair,
    rejected_log_ratios: PerPair,
    *,
    beta: float,
    p: PerPair,
    label_smoothing: float,
) -> PerPair:
    """Return the AOT loss over answers: `sigmoid_loss` between equal quantiles of chosen and rejected log-ratios.

    Melnyk et al. 2024 (arXiv 2406.05882), unpaired: which rejected answer belongs to which chosen one does not matter,
    but there must be as many of both. A pair's loss is that of the rank of its chosen log-ratio.

    Raises:
        ValueError: p is not 1 everywhere.
    """
    _refuse_soft_labels(p)
    return _by_rank(chosen_log_ratios, rejected_log_ratios, beta, label_smoothing)


def _by_rank(upper: torch.Tensor, lower: torch.Tensor, beta: float, label_smoothing: float) -> torch.Tensor:
    ranks = upper.argsort().argsort()
    logits = beta * (upper - lower.sort().values[ranks])
    return cross_entropy(logits, torch.full_like(logits, 1 - label_smoothing))


def _refuse_soft_labels(p: torch.Tensor) -> None:
    if bool((p != 1).any()):
        remedy = "take hard labels, or another loss such as sigmoid"
        raise ValueError(f"a label probability p is not 1, and AOT cannot use it: {remedy}")
