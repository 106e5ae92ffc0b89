"""Losses of the margin between two answers' log-ratios: the DPO family. Each returns one loss per pair.

- `delta`: log-ratio of chosen minus that of rejected, in nats. `mean_delta`: the same of log-ratios per response token.
  Another divergence may replace the log-ratios (`registry.with_divergence`).
- `beta`: strength of the pull towards the reference, above 0.
- `p`: probability that chosen is really preferred, in [0, 1].
- `label_smoothing`: eps, the assumed share of flipped labels, in [0, 0.5).
- q in the equations is the probability of the label after smoothing, p (1 - eps) + (1 - p) eps.
"""

import torch
import torch.nn.functional as F

from components.dpo.losses.labels import cross_entropy, expected_over_label, smoothed
from components.dpo.losses.quantities import PerPair


def sigmoid_loss(delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return the DPO loss with soft labels: -q log sigmoid(beta delta) - (1 - q) log sigmoid(-beta delta).

    With p = 1 and eps = 0 this is equation 7 of Rafailov et al. 2023 (arXiv 2305.18290). With p = 1 it is the
    conservative loss of Mitchell 2023 ("A note on DPO with noisy preferences"). The gradient vanishes at
    sigmoid(beta delta) = q. TRL's `sigmoid` has no label smoothing.
    """
    return cross_entropy(beta * delta, smoothed(p, label_smoothing))


def sigmoid_norm_loss(mean_delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return the length-normalised DPO loss: `sigmoid_loss` of log-ratios that are means over response tokens.

    Tülu 3 (Lambert et al. 2024, arXiv 2411.15124) calls it `dpo_norm`. The mean is smaller than the sum by the length,
    so beta is larger by about as much (5 there). Rewards are beta times the mean log-ratio. TRL logs those of sums.
    """
    return sigmoid_loss(mean_delta, beta=beta, p=p, label_smoothing=label_smoothing)


def ipo_loss(delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return the IPO loss of summed log-ratios: q (delta - 1/(2 beta))^2 + (1 - q) (delta + 1/(2 beta))^2.

    With q = 1 this is equation 17 of Azar et al. 2023 (arXiv 2310.12036). beta is the paper's tau, so the loss asks for
    a margin of 1/(2 beta) nats. For other q it is the expectation of that equation over the label, and the gradient
    vanishes at delta = (2 q - 1) / (2 beta). TRL's `ipo` is `ipo_mean_loss`.
    """
    target = 1 / (2 * beta)
    return expected_over_label(smoothed(p, label_smoothing), (delta - target) ** 2, (delta + target) ** 2)


def ipo_mean_loss(mean_delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return the IPO loss of log-ratios that are means over response tokens: `ipo_loss` of `mean_delta`.

    The margin that it asks for, 1/(2 beta) nats per token, does not depend on length. The paper (arXiv 2310.12036)
    writes sums. Its authors told TRL's that their results are of means, and TRL's `ipo` is this loss with p = 1 and
    eps = 0. Rewards are beta times the mean log-ratio.
    """
    return ipo_loss(mean_delta, beta=beta, p=p, label_smoothing=label_smoothing)


def hinge_loss(delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return the hinge loss of the margin: q max(0, 1 - beta delta) + (1 - q) max(0, 1 + beta delta).

    This is SLiC (Zhao et al. 2023, arXiv 2305.10425) with the reference's log-probabilities subtracted, as in RSO (Liu
    et al. 2023, arXiv 2309.06657). From a margin of 1/beta nats on, a pair costs nothing. For 1/2 < q < 1 the least
    expected loss is at beta delta = 1, whatever q is: a hinge learns the sign of a preference, not its probability.
    """
    logits = beta * delta
    return expected_over_label(smoothed(p, label_smoothing), F.relu(1 - logits), F.relu(1 + logits))


def robust_loss(delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return DPO's loss without the bias of flipped labels: [(1 - eps) l(delta) - eps l(-delta)] / (1 - 2 eps).

    l is -log sigmoid(beta delta); Chowdhury et al. 2024 (arXiv 2403.00409). If a share eps of the labels is flipped,
    its mean is that of `sigmoid_loss` over clean labels. For p < 1 it is the expectation over the label, which is the
    cross-entropy with q = (p - eps) / (1 - 2 eps). For p > 1 - eps that q is above 1, and the loss has no lower bound.

    Raises:
        ValueError: eps is not below 0.5, where labels say nothing.
    """
    if not 0 <= label_smoothing < 0.5:
        remedy = "the robust loss divides by 1 - 2 eps, so choose a value in [0, 0.5)"
        raise ValueError(f"label_smoothing is {label_smoothing:g}: {remedy}")
    return cross_entropy(beta * delta, (p - label_smoothing) / (1 - 2 * label_smoothing))


def exo_pair_loss(delta: PerPair, *, beta: float, p: PerPair, label_smoothing: float) -> PerPair:
    """Return the EXO loss, KL(s || q) with s = sigmoid(beta delta): s log(s / q) + (1 - s) log((1 - s) / (1 - q)).

    Ji et al. 2024 (arXiv 2402.00856), equation 16 with two answers. beta is its beta_pi; p = 1 gives its q = 1 - eps.
    For other p, q is the target distribution, as in the paper's loss for rewards, and the gradient vanishes at s = q.
    That is not the expectation of the hard-label loss over the label, whose least value lies at odds
    ((1 - eps) / eps)^(2 p - 1) instead of q / (1 - q).

    Raises:
        ValueError: eps is not in (0, 0.5). At 0 a certain label would cost infinitely much.
    """
    if not 0 < label_smoothing < 0.5:
        remedy = "exo_pair takes its logarithm, so choose one in (0, 0.5), such as 1e-3"
        raise ValueError(f"label_smoothing is {label_smoothing:g}: {remedy}")
    logits, q = beta * delta, smoothed(p, label_smoothing)
    preferred = F.logsigmoid(logits) - q.log()
    other = F.logsigmoid(-logits) - (-q).log1p()
    return expected_over_label(logits.sigmoid(), preferred, other)


def discopop_loss(delta: PerPair, *, beta: float, p: PerPair, discopop_tau: float) -> PerPair:
    """Return the DiscoPOP loss: (1 - m) (-log sigmoid(h)) + m exp(-h), with h = beta delta and m = sigmoid(h / tau).

    Equation 5 of Lu et al. 2024 (arXiv 2406.08414), the "log-ratio modulated loss", in expectation over the label. tau
    is the width of the switch between the two terms in units of h, above 0; it is 0.05 in the paper. The loss is not
    convex: with the paper's tau the hard-label loss has a local minimum just on the side of the wrong answer. No margin
    says p.
    """
    logits = beta * delta
    return expected_over_label(p, _modulated(logits, discopop_tau), _modulated(-logits, discopop_tau))


def _modulated(logits: torch.Tensor, tau: float) -> torch.Tensor:
    logistic = (-logits / tau).sigmoid() * -F.logsigmoid(logits)
    # m exp(-h) as one exponential: for a large negative h it is zero times infinity, which in TRL is not a number.
    return logistic + (F.logsigmoid(logits / tau) - logits).exp()
