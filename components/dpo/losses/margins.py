"""Losses of the margin between two answers' log-ratios: the DPO family."""

import torch
import torch.nn.functional as F

from components.dpo.losses.interface import PairLosses, cross_entropy, expected_over_label, smoothed


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
    Mitchell 2023 ("A note on DPO with noisy preferences"). The gradient vanishes where sigmoid(beta delta) = q. TRL's `sigmoid` has no
    label smoothing.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    losses = cross_entropy(beta * (chosen - rejected), smoothed(p, label_smoothing))
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def sigmoid_norm_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """Length-normalised DPO: `sigmoid_loss` of log-ratios that are means over response tokens instead of sums.

    Used by Tülu 3 (Lambert et al. 2024, arXiv 2411.15124) as `dpo_norm`. The mean is smaller than the sum by the length, so
    beta is larger by about as much (5 there). Rewards are beta times the mean log-ratio; TRL logs beta times the sum.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference, for a mean log-ratio.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    chosen = (policy_chosen_logps - reference_chosen_logps) / chosen_lengths
    rejected = (policy_rejected_logps - reference_rejected_logps) / rejected_lengths
    losses = cross_entropy(beta * (chosen - rejected), smoothed(p, label_smoothing))
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
    that equation over the label, so the gradient vanishes where delta = (2 q - 1) / (2 beta). TRL's `ipo` is `ipo_mean_loss`.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: tau; the margin that the loss asks for is 1 / (2 beta) nats.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    losses = _squared_errors(chosen - rejected, 1 / (2 * beta), smoothed(p, label_smoothing))
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def ipo_mean_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """IPO on log-probabilities that are means over response tokens, so that the margin asked for does not depend on length.

    The paper (arXiv 2310.12036) writes sums; its authors told TRL's that their results are of means, and TRL's `ipo` is this loss with
    p = 1 and eps = 0. Rewards are beta times the mean log-ratio.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: tau; the margin that the loss asks for is 1 / (2 beta) nats a token.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    chosen = (policy_chosen_logps - reference_chosen_logps) / chosen_lengths
    rejected = (policy_rejected_logps - reference_rejected_logps) / rejected_lengths
    losses = _squared_errors(chosen - rejected, 1 / (2 * beta), smoothed(p, label_smoothing))
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def _squared_errors(delta: torch.Tensor, target: float, q: torch.Tensor) -> torch.Tensor:
    return expected_over_label(q, (delta - target) ** 2, (delta + target) ** 2)


def hinge_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """Hinge on the margin: q max(0, 1 - beta delta) + (1 - q) max(0, 1 + beta delta), q as in `sigmoid_loss`.

    SLiC (Zhao et al. 2023, arXiv 2305.10425) with the reference's log-probabilities subtracted, as in RSO (Liu et al. 2023,
    arXiv 2309.06657). For 1/2 < q < 1 the least expected loss is at beta delta = 1, whatever q is: a hinge learns the sign of the
    preference and not its probability.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: 1 / beta is the margin, in nats, from which a pair costs nothing.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    logits = beta * (chosen - rejected)
    losses = expected_over_label(smoothed(p, label_smoothing), F.relu(1 - logits), F.relu(1 + logits))
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def robust_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """DPO without the bias of flipped labels: [(1 - eps) l(delta) - eps l(-delta)] / (1 - 2 eps), l = -log sigmoid(beta delta).

    Chowdhury et al. 2024 (arXiv 2403.00409): where a share eps of the labels is flipped, its mean is that of `sigmoid_loss` over clean
    labels. For p < 1 it is the expectation over the label, which is the cross-entropy with q = (p - eps) / (1 - 2 eps); that is above 1
    for p > 1 - eps, where the loss has no lower bound.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the share of labels that are flipped, in [0, 0.5).

    Raises:
        ValueError: eps is not below 0.5, where labels say nothing.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing:g}: the robust loss divides by 1 - 2 eps, so choose a value in [0, 0.5)")
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    losses = cross_entropy(beta * (chosen - rejected), (p - label_smoothing) / (1 - 2 * label_smoothing))
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def exo_pair_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
) -> PairLosses:
    """EXO: KL(s || q) of s = sigmoid(beta delta) from the label's distribution: s log(s / q) + (1 - s) log((1 - s) / (1 - q)).

    Ji et al. 2024 (arXiv 2402.00856), equation 16 with two answers: p = 1 gives its q = 1 - eps. For other p, q = p (1 - eps) + (1 - p)
    eps is the target distribution, as in the paper's loss for rewards, and the gradient vanishes at s = q. That is not the expectation
    of the hard-label loss over the label, whose least value lies at odds ((1 - eps) / eps)^(2 p - 1) instead of q / (1 - q).

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: The paper's beta_pi: strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, in (0, 0.5); at 0 a certain label would cost infinitely much.

    Raises:
        ValueError: eps is not in (0, 0.5).
    """
    if not 0 < label_smoothing < 0.5:
        raise ValueError(f"label_smoothing is {label_smoothing:g}: exo_pair takes its logarithm, so choose one in (0, 0.5), such as 1e-3")
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    logits, q = beta * (chosen - rejected), smoothed(p, label_smoothing)
    preferred = F.logsigmoid(logits) - q.log()
    other = F.logsigmoid(-logits) - (-q).log1p()
    losses = expected_over_label(logits.sigmoid(), preferred, other)
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def discopop_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    discopop_tau: float,
) -> PairLosses:
    """DiscoPOP: (1 - m) (-log sigmoid(h)) + m exp(-h) with h = beta delta and m = sigmoid(h / tau), in expectation over the label.

    Equation 5 of Lu et al. 2024 (arXiv 2406.08414), the "log-ratio modulated loss". It is not convex: with the paper's tau the hard-label
    loss has a local minimum just on the side of the wrong answer, and no margin says p. m exp(-h) is computed as one exponential,
    because for a large negative h it is zero times infinity, which in TRL is not a number.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        discopop_tau: Width of the switch between the two terms, in units of h, above 0; 0.05 in the paper.
    """
    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    logits = beta * (chosen - rejected)
    losses = expected_over_label(p, _modulated(logits, discopop_tau), _modulated(-logits, discopop_tau))
    return PairLosses(losses, beta * chosen.detach(), beta * rejected.detach())


def _modulated(logits: torch.Tensor, tau: float) -> torch.Tensor:
    logistic = (-logits / tau).sigmoid() * -F.logsigmoid(logits)
    return logistic + (F.logsigmoid(logits / tau) - logits).exp()
