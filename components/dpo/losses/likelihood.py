"""Losses of the answers' likelihood itself: without a reference, or with the chosen answer's likelihood added.

- `chosen_nll`, `rejected_nll`: negative log-likelihood -log pi(y|x) / |y|, in nats per response token.
- `chosen_mean_logps`, `rejected_mean_logps`: the same with the other sign, log pi(y|x) / |y|.
- `delta`: log-ratio of chosen minus that of rejected, in nats. `policy_chosen_logps`: log pi(y_w|x).
- `beta`: scale of the rewards, above 0.
- `p`: probability that chosen is really preferred, in [0, 1].
- `label_smoothing`: eps, the assumed share of flipped labels, in [0, 0.5).
- `nll_weight`: weight of the negative log-likelihood per token, at least 0.

Each returns one loss per pair, in expectation over the label.
"""

import torch
import torch.nn.functional as F

from components.dpo.losses.labels import expected_over_label, smoothed
from components.dpo.losses.margins import sigmoid_loss
from components.dpo.losses.quantities import PerPair


def sft_loss(chosen_nll: PerPair, rejected_nll: PerPair, *, p: PerPair) -> PerPair:
    """Return the loss of supervised fine-tuning on the preferred answer: p nll(y_w) + (1 - p) nll(y_l).

    With probability 1 - p the preferred answer is the rejected one. Each pair counts alike. TRL's `sft` takes the mean
    over all tokens of the batch, so that long answers count more and other micro-batches give another loss; with equal
    lengths the two agree. Rewards are the mean log-probabilities, without beta.
    """
    return expected_over_label(p, chosen_nll, rejected_nll)


def rpo_loss(
    delta: PerPair,
    chosen_nll: PerPair,
    rejected_nll: PerPair,
    *,
    beta: float,
    p: PerPair,
    label_smoothing: float,
    nll_weight: float,
) -> PerPair:
    """Return the RPO loss: `sigmoid_loss` plus alpha times `sft_loss`, alpha being `nll_weight`.

    Pang et al. 2024 (arXiv 2404.19733, version 3; version 1 put the weight on the DPO term), iterative reasoning
    preference optimization. TRL has no such loss any more: there it is the weighted sum of `sigmoid` and `sft`.
    """
    preference = sigmoid_loss(delta, beta=beta, p=p, label_smoothing=label_smoothing)
    return preference + nll_weight * sft_loss(chosen_nll, rejected_nll, p=smoothed(p, label_smoothing))


def simpo_loss(
    chosen_rewards: PerPair,
    rejected_rewards: PerPair,
    *,
    p: PerPair,
    label_smoothing: float,
    simpo_gamma: float,
) -> PerPair:
    """Return the SimPO loss: -log sigmoid(r_w - r_l - gamma), with the rewards r = beta log pi(y|x) / |y|.

    Meng et al. 2024 (arXiv 2405.14734). gamma is the reward margin that is asked for, at least 0; recipes often give
    the ratio gamma / beta instead. With h = r_w - r_l and q as in `sigmoid_loss`, the expectation over the label is
    -q log sigmoid(h - gamma) - (1 - q) log sigmoid(-h - gamma): a flipped label asks the other answer to lead by gamma.
    TRL's label smoothing takes log sigmoid(-(h - gamma)) there, which asks for nothing. The two agree at eps = 0 and at
    gamma = 0.
    """
    as_labelled = -F.logsigmoid(chosen_rewards - rejected_rewards - simpo_gamma)
    swapped = -F.logsigmoid(rejected_rewards - chosen_rewards - simpo_gamma)
    return expected_over_label(smoothed(p, label_smoothing), as_labelled, swapped)


def orpo_loss(
    chosen_nll: PerPair,
    rejected_nll: PerPair,
    chosen_mean_logps: PerPair,
    rejected_mean_logps: PerPair,
    *,
    beta: float,
    p: PerPair,
) -> PerPair:
    """Return the ORPO loss: `sft_loss` - beta log sigmoid(log odds(y_w) - log odds(y_l)).

    Hong et al. 2024 (arXiv 2403.07691). The odds are P / (1 - P) with P = exp(log pi(y|x) / |y|). beta is the paper's
    lambda, the weight of the odds ratio. If P is 1 to rounding, the odds are cut off at 1 / eps of the floating point
    type. TRL's likelihood term differs: it is the mean over all tokens of the batch, those of the prompts included.
    Rewards are beta log pi(y|x) / |y|.
    """
    log_odds_ratio = _log_odds(chosen_mean_logps) - _log_odds(rejected_mean_logps)
    odds = expected_over_label(p, -F.logsigmoid(log_odds_ratio), -F.logsigmoid(-log_odds_ratio))
    return sft_loss(chosen_nll, rejected_nll, p=p) + beta * odds


def _log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    log_probability = log_probability.clamp(max=-torch.finfo(log_probability.dtype).eps)
    return log_probability - (-log_probability.expm1()).log()


def cpo_loss(
    policy_chosen_logps: PerPair,
    policy_rejected_logps: PerPair,
    chosen_nll: PerPair,
    rejected_nll: PerPair,
    *,
    beta: float,
    p: PerPair,
    label_smoothing: float,
    nll_weight: float,
) -> PerPair:
    """Return the CPO loss: `sigmoid_loss` of log pi(y_w|x) - log pi(y_l|x), plus a weight times `sft_loss`.

    Xu et al. 2024 (arXiv 2401.08417): DPO with a uniform reference, and the likelihood of chosen in place of the
    reference's pull. TRL's likelihood term is the mean over all tokens of the batch (see `sft_loss`).
    Rewards are beta log pi(y|x).
    """
    policy_delta = policy_chosen_logps - policy_rejected_logps
    preference = sigmoid_loss(policy_delta, beta=beta, p=p, label_smoothing=label_smoothing)
    return preference + nll_weight * sft_loss(chosen_nll, rejected_nll, p=smoothed(p, label_smoothing))
