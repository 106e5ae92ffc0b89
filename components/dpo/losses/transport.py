"""AOT: losses that compare distributions over a batch instead of pairs."""

import torch

from components.dpo.losses.interface import PairLosses, cross_entropy


def aot_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """AOT: `sigmoid_loss` of the difference between equal quantiles of the policy's and the reference's margins over the batch.

    Melnyk et al. 2024 (arXiv 2406.05882), paired: the policy's margins log pi(y_w|x) - log pi(y_l|x) and the reference's are sorted
    apart, then compared rank by rank. A pair's loss is that of the rank of its policy margin. Quantiles of a batch of one are the
    values themselves; a larger batch estimates them better.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) of ones: a quantile mixes pairs, so one pair's probability has no place in it.
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).

    Raises:
        ValueError: p is not 1 everywhere.
    """
    _refuse_soft_labels(p)
    losses = _by_rank(policy_chosen_logps - policy_rejected_logps, reference_chosen_logps - reference_rejected_logps, beta, label_smoothing)
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def aot_unpaired_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """AOT over answers: `sigmoid_loss` of the difference between equal quantiles of the chosen and the rejected log-ratios of the batch.

    Melnyk et al. 2024 (arXiv 2406.05882), unpaired: which rejected answer belongs to which chosen one does not matter, but there must
    be as many of both. A pair's loss is that of the rank of its chosen log-ratio.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) of ones: a quantile mixes pairs, so one pair's probability has no place in it.
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).

    Raises:
        ValueError: p is not 1 everywhere.
    """
    _refuse_soft_labels(p)
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    losses = _by_rank(chosen, rejected, beta, label_smoothing)
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def _by_rank(upper: torch.Tensor, lower: torch.Tensor, beta: float, label_smoothing: float) -> torch.Tensor:
    ranks = upper.argsort().argsort()
    logits = beta * (upper - lower.sort().values[ranks])
    return cross_entropy(logits, torch.full_like(logits, 1 - label_smoothing))


def _refuse_soft_labels(p: torch.Tensor) -> None:
    if bool((p != 1).any()):
        raise ValueError("a label probability p is not 1, and AOT has no use for it: take hard labels, or another loss such as sigmoid")
