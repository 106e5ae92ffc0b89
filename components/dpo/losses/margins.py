"""Preference losses: pure functions of summed log-probabilities, one registry. Knows no model, batch or optimizer.

Notation: y_w is the chosen answer, y_l the rejected one, pi the policy, pi_ref the reference, and the margin is
delta = [log pi(y_w|x) - log pi_ref(y_w|x)] - [log pi(y_l|x) - log pi_ref(y_l|x)].
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F


class PairLosses(NamedTuple):
    """Per-pair results, each of shape (batch,)."""

    losses: torch.Tensor
    chosen_rewards: torch.Tensor
    """beta * (log pi(y_w|x) - log pi_ref(y_w|x)), detached."""
    rejected_rewards: torch.Tensor


class PairLoss(Protocol):
    """What every entry of `LOSSES` looks like."""

    def __call__(
        self,
        policy_chosen_logps: torch.Tensor,
        policy_rejected_logps: torch.Tensor,
        reference_chosen_logps: torch.Tensor,
        reference_rejected_logps: torch.Tensor,
        *,
        beta: float,
        p: torch.Tensor,
        label_smoothing: float,
    ) -> PairLosses:
        """Computes per-pair losses from (batch,) log-probabilities that are summed over response tokens."""
        ...


def sigmoid_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """DPO with soft labels: -q log sigmoid(beta delta) - (1 - q) log sigmoid(-beta delta), q = p (1 - eps) + (1 - p) eps.

    With p = 1 and eps = 0 this is equation 7 of Rafailov et al. 2023 (arXiv 2305.18290); with p = 1 it is the conservative loss of
    Mitchell 2023 ("A note on DPO with noisy preferences"). The gradient vanishes where sigmoid(beta delta) = q.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x), summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    q = p * (1 - label_smoothing) + (1 - p) * label_smoothing
    logits = beta * (chosen - rejected)
    losses = -q * F.logsigmoid(logits) - (1 - q) * F.logsigmoid(-logits)
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def ipo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """IPO on summed log-probabilities: q (delta - 1/(2 beta))^2 + (1 - q) (delta + 1/(2 beta))^2, q as in `sigmoid_loss`.

    With q = 1 this is equation 17 of Azar et al. 2023 (arXiv 2310.12036), beta being its tau; for other q it is the expectation of
    that equation over the label, so the gradient vanishes where delta = (2 q - 1) / (2 beta).

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x), summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: tau; the margin that the loss asks for is 1 / (2 beta) nats.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    q = p * (1 - label_smoothing) + (1 - p) * label_smoothing
    delta, target = chosen - rejected, 1 / (2 * beta)
    losses = q * (delta - target) ** 2 + (1 - q) * (delta + target) ** 2
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


LOSSES: dict[str, PairLoss] = {"sigmoid": sigmoid_loss, "ipo": ipo_loss}
