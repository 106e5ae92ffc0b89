"""Losses of single responses that are desirable or not, and their use on pairs."""

from collections.abc import Mapping
from typing import Any

import torch

from components.dpo.losses.interface import PAIR_LOGPS, Loss, PairLosses, ResponseLosses, expected_over_label


def balanced_weights(num_desirable: float, num_undesirable: float) -> tuple[float, float]:
    """Weights of desirable and undesirable responses under which both kinds count alike in sum and the mean weight is 1.

    The KTO paper (arXiv 2402.01306) asks that (desirable weight x count) / (undesirable weight x count) lie between 1 and 3/2;
    here it is 1. A mean weight of 1 keeps the loss, and so the learning rate, on one scale whatever the balance of the data.

    Args:
        num_desirable: Desirable responses in the training data, in expectation over their labels; above 0.
        num_undesirable: Undesirable responses, the same.

    Raises:
        ValueError: A kind is missing.
    """
    if min(num_desirable, num_undesirable) <= 0:
        raise ValueError(f"there are {num_desirable:g} desirable and {num_undesirable:g} undesirable responses: both kinds are needed")
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


def losses_of_both(
    loss: Loss[ResponseLosses],
    policy: torch.Tensor,
    reference: torch.Tensor,
    p: torch.Tensor,
    present: torch.Tensor,
    shared: Mapping[str, Any],
) -> PairLosses:
    """A pair's loss as the mean over its answers: chosen, desirable with probability p, and rejected, with 1 - p.

    So the mean over pairs is the mean over twice as many responses; of an unpaired response, which has one answer, the mean is its own.

    Args:
        loss: The loss of single responses.
        policy: (2, batch) log pi(y|x) in nats, summed over response tokens: of chosen, then of rejected.
        reference: (2, batch) log pi_ref(y|x).
        p: (batch,) probability that the label is right, in [0, 1].
        present: (2, batch) 1 where there is an answer, 0 where there is none.
        shared: What else the loss reads.
    """
    available = {"policy_logps": policy.flatten(), "reference_logps": reference.flatten(), "p": torch.cat([p, 1 - p])}
    losses, rewards = (values.view_as(policy) * present for values in loss.apply(available | dict(shared)))
    return PairLosses(losses.sum(dim=0) / present.sum(dim=0), rewards[0], rewards[1])


def taken_apart(loss: Loss[ResponseLosses]) -> Loss[PairLosses]:
    """Makes the loss over pairs that takes each of them apart; pairs hold as many desirable as undesirable answers."""

    def function(
        policy_chosen_logps: torch.Tensor,
        policy_rejected_logps: torch.Tensor,
        reference_chosen_logps: torch.Tensor,
        reference_rejected_logps: torch.Tensor,
        *,
        p: torch.Tensor,
        **shared: Any,
    ) -> PairLosses:
        policy = torch.stack([policy_chosen_logps, policy_rejected_logps])
        reference = torch.stack([reference_chosen_logps, reference_rejected_logps])
        return losses_of_both(loss, policy, reference, p, torch.ones_like(policy), shared)

    def first_loss(p: torch.Tensor, settings: Mapping[str, float]) -> float:
        assert loss.first_loss is not None
        return loss.first_loss(torch.cat([p, 1 - p]), settings)

    others = tuple(name for name in loss.inputs if name not in ("policy_logps", "reference_logps"))
    return Loss(function, (*PAIR_LOGPS, *others), loss.settings, first_loss)
