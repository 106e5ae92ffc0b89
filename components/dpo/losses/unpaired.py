"""Losses of single responses that are desirable or not, and their use on pairs."""

import torch

from components.dpo.losses.interface import PairLosses, ResponseLosses, expected_over_label


def balanced_weights(num_desirable: int, num_undesirable: int) -> tuple[float, float]:
    """Weights of desirable and undesirable responses under which both kinds count alike in sum and the mean weight is 1.

    The KTO paper (arXiv 2402.01306) asks that (desirable weight x count) / (undesirable weight x count) lie between 1 and 3/2;
    here it is 1. A mean weight of 1 keeps the loss, and so the learning rate, on one scale whatever the balance of the data.

    Args:
        num_desirable: Desirable responses in the training data, at least 1.
        num_undesirable: Undesirable responses, at least 1.

    Raises:
        ValueError: A kind is missing.
    """
    if min(num_desirable, num_undesirable) < 1:
        raise ValueError(
            f"there are {num_desirable} desirable and {num_undesirable} undesirable responses: KTO needs both kinds, so add the missing one"
        )
    half = (num_desirable + num_undesirable) / 2
    return half / num_desirable, half / num_undesirable


def kto_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    kl: torch.Tensor,
    desirable_weight: float,
    undesirable_weight: float,
) -> ResponseLosses:
    """KTO: desirable_weight (1 - sigmoid(r - z)) or undesirable_weight (1 - sigmoid(z - r)), r = beta log-ratio, z = beta KL.

    Ethayarajh et al. 2024 (arXiv 2402.01306), equation 7, in expectation over the label. The
    expectation is linear in sigmoid(r - z), so no reward says p: r rises where p desirable_weight > (1 - p) undesirable_weight.

    Args:
        policy_logps: (batch,) log pi(y|x) in nats, summed over response tokens.
        reference_logps: (batch,) log pi_ref(y|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that the response is desirable, in [0, 1]: 1 for a desirable and 0 for an undesirable one.
        kl: Scalar in nats, the mean of log pi(y'|x) - log pi_ref(y'|x) over responses y' of other prompts, already reduced across ranks; no
            gradient flows through it, and an estimate below 0 counts as 0.
        desirable_weight: Weight of desirable responses, above 0; `balanced_weights` chooses it from the counts.
        undesirable_weight: Weight of undesirable responses, above 0.
    """
    rewards = beta * (policy_logps - reference_logps)
    logits = rewards - beta * kl.detach().clamp(min=0)
    losses = expected_over_label(p, desirable_weight * (-logits).sigmoid(), undesirable_weight * logits.sigmoid())
    return ResponseLosses(losses, rewards.detach())


def kto_of_pairs_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    kl: torch.Tensor,
    desirable_weight: float,
    undesirable_weight: float,
) -> PairLosses:
    """KTO on pairs taken apart: the mean of `kto_loss` of chosen, desirable with probability p, and of rejected, with 1 - p.

    The mean over pairs is thus the mean of `kto_loss` over twice as many responses.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, so that it is the desirable one of the two, in [0, 1].
        kl: Scalar in nats, see `kto_loss`.
        desirable_weight: Weight of desirable responses, above 0. Pairs hold as many of both kinds.
        undesirable_weight: Weight of undesirable responses, above 0.
    """

    def responses(policy: torch.Tensor, reference: torch.Tensor, p: torch.Tensor) -> ResponseLosses:
        weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
        return kto_loss(policy, reference, beta=beta, p=p, kl=kl, **weights)

    chosen = responses(policy_chosen_logps, reference_chosen_logps, p)
    rejected = responses(policy_rejected_logps, reference_rejected_logps, 1 - p)
    return PairLosses((chosen.losses + rejected.losses) / 2, chosen.rewards, rejected.rewards)


def apo_zero_unpaired_loss(
    policy_logps: torch.Tensor,
    reference_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    desirable_weight: float,
    undesirable_weight: float,
) -> ResponseLosses:
    """APO-zero of single responses: `kto_loss` with a KL term of 0, which needs no forward over mismatched responses.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266); the name is TRL's.

    Args:
        policy_logps: (batch,) log pi(y|x) in nats, summed over response tokens.
        reference_logps: (batch,) log pi_ref(y|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that the response is desirable, in [0, 1].
        desirable_weight: Weight of desirable responses, above 0.
        undesirable_weight: Weight of undesirable responses, above 0.
    """
    none = policy_logps.new_zeros(())
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return kto_loss(policy_logps, reference_logps, beta=beta, p=p, kl=none, **weights)
