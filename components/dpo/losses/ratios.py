"""Losses that judge each answer of a pair by its own log-ratio, not only by the margin. Each returns one loss per pair.

- `chosen_log_ratios`, `rejected_log_ratios`: log pi(y|x) - log pi_ref(y|x), in nats, w and l in the equations.
- `chosen_rewards`, `rejected_rewards`: beta times the log-ratio, r_w and r_l in the equations.
- `beta`: strength of the pull towards the reference, above 0.
- `p`: probability that chosen is really preferred, in [0, 1].
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from components.dpo.losses.labels import cross_entropy, expected_over_label
from components.dpo.losses.quantities import PerPair, Scalar


@dataclass(frozen=True)
class RunningMean:
    """A mean over all values so far: what `bco_pair_loss` keeps between steps. Both tensors are scalars."""

    mean: torch.Tensor
    count: torch.Tensor

    def updated(self, total: torch.Tensor, count: torch.Tensor) -> "RunningMean":
        """Return the mean over these values and more.

        Args:
            total: The sum of the further values, a scalar, already reduced across ranks.
            count: How many they are, a scalar above 0, already reduced across ranks.
        """
        new_count = self.count + count
        return RunningMean(self.mean + (total.detach() - count * self.mean) / new_count, new_count)


def nca_pair_loss(chosen_rewards: PerPair, rejected_rewards: PerPair, *, p: PerPair) -> PerPair:
    """Return the NCA loss: -p ls(r_w) - (1 - p) ls(r_l) - [ls(-r_w) + ls(-r_l)] / 2, with ls = log sigmoid.

    Chen et al. 2024 (arXiv 2402.05369) with two answers; p and 1 - p are its softmax of the rewards, and p = 1 is its
    preference loss. Its least value is at r_w = log 2p and r_l = log 2(1 - p), a margin of log p / (1 - p).
    """
    contrast = -0.5 * F.logsigmoid(-chosen_rewards) - 0.5 * F.logsigmoid(-rejected_rewards)
    return expected_over_label(p, -F.logsigmoid(chosen_rewards), -F.logsigmoid(rejected_rewards)) + contrast


def bco_pair_loss(chosen_rewards: PerPair, rejected_rewards: PerPair, *, p: PerPair, reward_shift: Scalar) -> PerPair:
    """Return the BCO loss: -log sigmoid(r_w - shift) - log sigmoid(-(r_l - shift)), in expectation over the label.

    Jung et al. 2024 (arXiv 2404.04656): a binary classifier of good and bad answers, whose threshold is the mean reward
    of both. The shift is `RunningMean.mean` over chosen and rejected rewards of the steps before this one, 0 at first.
    For p < 1 both answers are classified with soft labels, p and 1 - p, so the least value is at a margin of
    2 log p / (1 - p). TRL's `bco_pair` has no shift (it is 0 there).
    """
    shift = reward_shift.detach()
    return cross_entropy(chosen_rewards - shift, p) + cross_entropy(rejected_rewards - shift, 1 - p)


def sppo_loss(chosen_log_ratios: PerPair, rejected_log_ratios: PerPair, *, beta: float, p: PerPair) -> PerPair:
    """Return the SPPO loss: (w - (p - 1/2) / beta)^2 + (l - (1/2 - p) / beta)^2.

    Wu et al. 2024 (arXiv 2405.00675), equation 4.7 with eta = 1 / beta. There p is the preference model's probability
    that the answer wins against the policy; here it is that of one answer winning against the other.
    A certain winner should gain 1/(2 beta) nats on the reference.
    """
    return (chosen_log_ratios - (p - 0.5) / beta) ** 2 + (rejected_log_ratios + (p - 0.5) / beta) ** 2


def sppo_hard_loss(chosen_log_ratios: PerPair, rejected_log_ratios: PerPair, *, beta: float, p: PerPair) -> PerPair:
    """Return the SPPO loss with hard labels: (w - 1/(2 beta))^2 + (l + 1/(2 beta))^2, in expectation over the label.

    For p = 1 it is `sppo_loss` (arXiv 2405.00675). For other p it has the gradient of `sppo_loss` and is larger by the
    variance of the target, 2 p (1 - p) / beta^2: it says what hard labels drawn with probability p would cost.
    """
    target = 1 / (2 * beta)
    as_labelled = (chosen_log_ratios - target) ** 2 + (rejected_log_ratios + target) ** 2
    swapped = (chosen_log_ratios + target) ** 2 + (rejected_log_ratios - target) ** 2
    return expected_over_label(p, as_labelled, swapped)


def apo_zero_loss(chosen_rewards: PerPair, rejected_rewards: PerPair, *, p: PerPair) -> PerPair:
    """Return the APO-zero loss: 1 - sigmoid(r_w) + sigmoid(r_l), in expectation over the label.

    Equation 7 of D'Oosterlinck et al. 2024 (arXiv 2408.06266), for chosen answers that are better than the policy's
    own. The expectation is (2 p - 1) times the hard-label loss plus 2 (1 - p). A soft label only scales the gradient:
    no margin says p.
    """
    as_labelled = (-chosen_rewards).sigmoid() + rejected_rewards.sigmoid()
    swapped = (-rejected_rewards).sigmoid() + chosen_rewards.sigmoid()
    return expected_over_label(p, as_labelled, swapped)


def apo_down_loss(chosen_rewards: PerPair, rejected_rewards: PerPair, *, p: PerPair) -> PerPair:
    """Return the APO-down loss: sigmoid(r_w) + 1 - sigmoid(r_w - r_l), in expectation over the label.

    Equation 8 of D'Oosterlinck et al. 2024 (arXiv 2408.06266), for chosen answers that are worse than the policy's own:
    both become less likely, rejected more so. As for `apo_zero_loss`, no margin says p. But here a soft label does more
    than scale: with probability 1 - p it is the rejected answer that is pushed down by the first term.
    """
    as_labelled = chosen_rewards.sigmoid() + (rejected_rewards - chosen_rewards).sigmoid()
    swapped = rejected_rewards.sigmoid() + (chosen_rewards - rejected_rewards).sigmoid()
    return expected_over_label(p, as_labelled, swapped)


def dpop_loss(
    chosen_log_ratios: PerPair,
    rejected_log_ratios: PerPair,
    *,
    beta: float,
    p: PerPair,
    dpop_lambda: float,
) -> PerPair:
    """Return the DPO-Positive loss: -log sigmoid(beta (w - l - lambda max(0, -w))), in expectation over the label.

    Pal et al. 2024 (arXiv 2402.13228), "Smaug": the preferred answer must not become less likely than under the
    reference. With probability 1 - p the preferred answer, and so the penalised one, is the rejected one. lambda is the
    weight of the penalty, at least 0; with 0 it is `sigmoid_loss`.
    """
    delta = chosen_log_ratios - rejected_log_ratios
    as_labelled = -F.logsigmoid(beta * (delta - dpop_lambda * F.relu(-chosen_log_ratios)))
    swapped = -F.logsigmoid(beta * (-delta - dpop_lambda * F.relu(-rejected_log_ratios)))
    return expected_over_label(p, as_labelled, swapped)
