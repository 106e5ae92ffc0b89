"""Losses of single responses that are desirable or not, and their use on pairs.

- `rewards`: beta (log pi(y|x) - log pi_ref(y|x)), one per response; r in the equations.
- `beta`: strength of the pull towards the reference, above 0.
- `p`: probability that the response is desirable, in [0, 1]: 1 for a desirable and 0 for an undesirable one.
- `desirable_weight`, `undesirable_weight`: weights of the two kinds, above 0; `balanced_weights` chooses them.
"""

from collections.abc import Mapping
from typing import Any

import torch

from components.dpo.losses.interface import Loss, PairLosses, ResponseLosses, Term
from components.dpo.losses.labels import expected_over_label
from components.dpo.losses.quantities import PerResponse, Scalar

RATIOS = ("chosen_log_ratios", "rejected_log_ratios")


def balanced_weights(num_desirable: float, num_undesirable: float) -> tuple[float, float]:
    """Return weights under which desirable and undesirable responses count alike in sum and the mean weight is 1.

    The KTO paper (arXiv 2402.01306) asks that (desirable weight x count) / (undesirable weight x count) lie between 1
    and 3/2; here it is 1. A mean weight of 1 keeps the loss, and so the learning rate, on one scale whatever the
    balance of the data.

    Args:
        num_desirable: Desirable responses in the training data, in expectation over their labels; above 0.
        num_undesirable: Undesirable responses, the same.

    Raises:
        ValueError: A kind is missing.
    """
    if min(num_desirable, num_undesirable) <= 0:
        counts = f"{num_desirable:g} desirable and {num_undesirable:g} undesirable responses"
        raise ValueError(f"there are {counts}: both kinds are needed")
    half = (num_desirable + num_undesirable) / 2
    return half / num_desirable, half / num_undesirable


def kto_loss(
    rewards: PerResponse,
    *,
    beta: float,
    p: PerResponse,
    kl: Scalar,
    desirable_weight: float,
    undesirable_weight: float,
) -> PerResponse:
    """Return the KTO loss: desirable_weight (1 - sigmoid(r - z)) or undesirable_weight (1 - sigmoid(z - r)).

    Ethayarajh et al. 2024 (arXiv 2402.01306), equation 7 with z = beta KL, in expectation over the label, which
    is linear in sigmoid(r - z). So no reward says p: r rises if p desirable_weight > (1 - p) undesirable_weight.

    KL is the mean of log pi(y'|x) - log pi_ref(y'|x) over responses y' of other prompts, in nats, already reduced
    across ranks. No gradient flows through it, and an estimate below 0 counts as 0.
    """
    logits = rewards - beta * kl.detach().clamp(min=0)
    return expected_over_label(p, desirable_weight * (-logits).sigmoid(), undesirable_weight * logits.sigmoid())


def apo_zero_unpaired_loss(
    rewards: PerResponse,
    *,
    p: PerResponse,
    desirable_weight: float,
    undesirable_weight: float,
) -> PerResponse:
    """Return the APO-zero loss of single responses: `kto_loss` with a KL term of 0.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266); the name is TRL's. It needs no forward over mismatched responses.
    """
    return expected_over_label(p, desirable_weight * (-rewards).sigmoid(), undesirable_weight * rewards.sigmoid())


def losses_of_both(
    loss: Loss[ResponseLosses],
    log_ratios: torch.Tensor,
    p: torch.Tensor,
    present: torch.Tensor,
    shared: Mapping[str, Any],
) -> PairLosses:
    """Return a pair's loss as the mean over its answers: chosen is desirable with probability p, rejected with 1 - p.

    The mean over pairs is then the mean over twice as many responses. An unpaired response has one answer, and the mean
    is that answer's own loss.

    Args:
        loss: The loss of single responses.
        log_ratios: (2, batch) log pi(y|x) - log pi_ref(y|x) in nats: of chosen, then of rejected.
        p: (batch,) probability that the label is right, in [0, 1].
        present: (2, batch) 1 where there is an answer, 0 where there is none.
        shared: What else the loss reads.
    """
    results = loss.apply({**shared, "log_ratios": log_ratios.flatten(), "p": torch.cat([p, 1 - p])})
    losses, rewards = (values.view_as(log_ratios) * present for values in results)
    return PairLosses(losses.sum(dim=0) / present.sum(dim=0), rewards[0], rewards[1])


def taken_apart(loss: Loss[ResponseLosses]) -> Loss[PairLosses]:
    """Return the loss over pairs that takes each of them apart. Pairs hold as many desirable as undesirable answers."""

    def losses(
        chosen_log_ratios: torch.Tensor, rejected_log_ratios: torch.Tensor, p: torch.Tensor, **shared: Any
    ) -> torch.Tensor:
        log_ratios = torch.stack([chosen_log_ratios, rejected_log_ratios])
        return losses_of_both(loss, log_ratios, p, torch.ones_like(log_ratios), shared).losses

    def first_loss(p: torch.Tensor, settings: Mapping[str, float]) -> float:
        assert loss.first_loss is not None
        return loss.first_loss(torch.cat([p, 1 - p]), settings)

    shared = [name for name in (*loss.inputs, *loss.settings) if name not in ("policy_logps", "reference_logps", "p")]
    return Loss(((Term(losses, (*RATIOS, "p", *shared), PairLosses, first_loss=first_loss), 1.0),))
