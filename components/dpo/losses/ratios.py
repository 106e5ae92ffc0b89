"""Losses that judge each answer of a pair by its own log-ratio, not only by the margin."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from components.dpo.losses.interface import PairLosses, cross_entropy, expected_over_label


@dataclass(frozen=True)
class RunningMean:
    """A mean over all values so far: what `bco_pair_loss` keeps between steps. Both are scalars; a checkpoint stores the two."""

    mean: torch.Tensor
    count: torch.Tensor

    def updated(self, total: torch.Tensor, count: torch.Tensor) -> "RunningMean":
        """Takes in more values.

        Args:
            total: Their sum, a scalar, already reduced across ranks.
            count: How many they are, a scalar above 0, already reduced across ranks.
        """
        counted = self.count + count
        return RunningMean(self.mean + (total.detach() - count * self.mean) / counted, counted)


def nca_pair_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
) -> PairLosses:
    """NCA: -p log sigmoid(r_w) - (1 - p) log sigmoid(r_l) - (1/2) [log sigmoid(-r_w) + log sigmoid(-r_l)], r = beta log-ratio.

    Chen et al. 2024 (arXiv 2402.05369) with two answers; p and 1 - p are its softmax of the rewards, and p = 1 is its preference loss.
    Its least value is at r_w = log 2p and r_l = log 2(1 - p), a margin of log p / (1 - p).

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    chosen, rejected = beta * chosen, beta * rejected
    contrast = -0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)
    losses = expected_over_label(p, -F.logsigmoid(chosen), -F.logsigmoid(rejected)) + contrast
    return PairLosses(losses, chosen.detach(), rejected.detach())


def bco_pair_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    reward_shift: torch.Tensor,
) -> PairLosses:
    """BCO: -log sigmoid(r_w - shift) - log sigmoid(-(r_l - shift)), r = beta log-ratio, in expectation over the label.

    Jung et al. 2024 (arXiv 2404.04656): a binary classifier of good and bad answers, whose threshold is the mean reward of both. For
    p < 1 both answers are classified with soft labels, p and 1 - p, so its least value is at a margin of 2 log p / (1 - p). TRL's
    `bco_pair` has no shift (it is 0 there).

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        reward_shift: Scalar, `RunningMean.mean` over chosen and rejected rewards of the steps before this one (0 at first); detached here.
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    chosen, rejected, shift = beta * chosen, beta * rejected, reward_shift.detach()
    losses = cross_entropy(chosen - shift, p) + cross_entropy(rejected - shift, 1 - p)
    return PairLosses(losses, chosen.detach(), rejected.detach())


def sppo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
) -> PairLosses:
    """SPPO: (log-ratio_w - (p - 1/2) / beta)^2 + (log-ratio_l - (1/2 - p) / beta)^2.

    Wu et al. 2024 (arXiv 2405.00675), equation 4.7 with eta = 1 / beta, p being the preference model's probability that the answer wins
    against the policy. Here p is that of one answer winning against the other.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: 1 / eta; a certain winner should gain 1 / (2 beta) nats on the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    losses = (chosen - (p - 0.5) / beta) ** 2 + (rejected + (p - 0.5) / beta) ** 2
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def sppo_hard_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
) -> PairLosses:
    """SPPO with hard labels, (log-ratio_w - 1/(2 beta))^2 + (log-ratio_l + 1/(2 beta))^2, in expectation over the label.

    For p = 1 it is `sppo_loss` (arXiv 2405.00675). For other p it has the gradient of `sppo_loss` and is larger by the variance of the
    target, 2 p (1 - p) / beta^2: it says what hard labels drawn with probability p would cost.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: 1 / eta; a winner should gain 1 / (2 beta) nats on the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    target = 1 / (2 * beta)
    as_labelled = (chosen - target) ** 2 + (rejected + target) ** 2
    swapped = (chosen + target) ** 2 + (rejected - target) ** 2
    return PairLosses(expected_over_label(p, as_labelled, swapped), beta * chosen.detach(), beta * rejected.detach())


def apo_zero_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
) -> PairLosses:
    """APO-zero: 1 - sigmoid(r_w) + sigmoid(r_l), r = beta log-ratio, in expectation over the label.

    Equation 7 of D'Oosterlinck et al. 2024 (arXiv 2408.06266), for chosen answers that are better than the policy's own. The expectation is
    (2 p - 1) times the hard-label loss plus 2 (1 - p), so a soft label only scales the gradient: there is no margin that says p.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    chosen, rejected = beta * chosen, beta * rejected
    as_labelled = (-chosen).sigmoid() + rejected.sigmoid()
    swapped = (-rejected).sigmoid() + chosen.sigmoid()
    return PairLosses(expected_over_label(p, as_labelled, swapped), chosen.detach(), rejected.detach())


def apo_down_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
) -> PairLosses:
    """APO-down: sigmoid(r_w) + 1 - sigmoid(r_w - r_l), r = beta log-ratio, in expectation over the label.

    Equation 8 of D'Oosterlinck et al. 2024 (arXiv 2408.06266), for chosen answers that are worse than the policy's own: both become
    less likely, rejected more so. As for `apo_zero_loss` no margin says p, but here a soft label does more than scale: with probability
    1 - p it is the rejected answer that is pushed down by the first term.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    chosen, rejected = beta * chosen, beta * rejected
    as_labelled = chosen.sigmoid() + (rejected - chosen).sigmoid()
    swapped = rejected.sigmoid() + (chosen - rejected).sigmoid()
    return PairLosses(expected_over_label(p, as_labelled, swapped), chosen.detach(), rejected.detach())


def dpop_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    dpop_lambda: float,
) -> PairLosses:
    """DPO-Positive (Smaug): -log sigmoid(beta (delta - lambda max(0, log pi_ref(y_w|x) - log pi(y_w|x)))), in expectation over the label.

    Pal et al. 2024 (arXiv 2402.13228): the preferred answer must not become less likely than under the reference. With
    probability 1 - p the preferred answer, and so the penalised one, is the rejected one. With lambda = 0 it is `sigmoid_loss`.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        dpop_lambda: Weight of the penalty, at least 0.
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    margin = chosen - rejected
    as_labelled = -F.logsigmoid(beta * (margin - dpop_lambda * F.relu(-chosen)))
    swapped = -F.logsigmoid(beta * (-margin - dpop_lambda * F.relu(-rejected)))
    return PairLosses(expected_over_label(p, as_labelled, swapped), beta * chosen.detach(), beta * rejected.detach())
