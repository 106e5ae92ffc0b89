"""Losses of the answers' likelihood itself: without a reference, or with the chosen answer's likelihood added."""

import torch
import torch.nn.functional as F

from components.dpo.losses.interface import PairLosses, expected_over_label, smoothed
from components.dpo.losses.margins import sigmoid_loss


def sft_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    *,
    p: torch.Tensor,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """Supervised fine-tuning on the preferred answer: -log pi(y_w|x) / |y_w|, in expectation over the label.

    With probability 1 - p the preferred answer is the rejected one. Each pair counts alike; TRL's `sft` takes the mean over all tokens of
    the batch, so that long answers count more and other micro-batches give another loss; with equal lengths the two agree.
    Rewards are log pi(y|x) / |y|.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    chosen, rejected = policy_chosen_logps / chosen_lengths, policy_rejected_logps / rejected_lengths
    return PairLosses(expected_over_label(p, -chosen, -rejected), chosen.detach(), rejected.detach())


def rpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    reference_chosen_logps: torch.Tensor,
    reference_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
    nll_weight: float,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """RPO: `sigmoid_loss` plus a weight times `sft_loss`, both in expectation over the label.

    Pang et al. 2024 (arXiv 2404.19733, version 3; version 1 put the weight on the DPO term), iterative reasoning preference optimization.
    TRL has no such loss any more: there it is the weighted sum of `sigmoid` and `sft`.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        reference_chosen_logps: (batch,) log pi_ref(y_w|x).
        reference_rejected_logps: (batch,) log pi_ref(y_l|x).
        beta: Strength of the pull towards the reference.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
        nll_weight: The paper's alpha: weight of the negative log-likelihood a token, at least 0.
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    logps = (policy_chosen_logps, policy_rejected_logps)
    q = smoothed(p, label_smoothing)
    preference = sigmoid_loss(*logps, reference_chosen_logps, reference_rejected_logps, beta=beta, p=p, label_smoothing=label_smoothing)
    likelihood = sft_loss(*logps, p=q, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    return preference._replace(losses=preference.losses + nll_weight * likelihood.losses)


def simpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
    simpo_gamma: float,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """SimPO: -log sigmoid(h - gamma), h = beta (log pi(y_w|x) / |y_w| - log pi(y_l|x) / |y_l|), in expectation over the label.

    Meng et al. 2024 (arXiv 2405.14734). For q < 1 (as in `sigmoid_loss`) it is -q log sigmoid(h - gamma) - (1 - q) log sigmoid(-h - gamma):
    a flipped label asks the other answer to lead by gamma. TRL's label smoothing takes log sigmoid(-(h - gamma)) there, which asks for
    nothing; the two agree at eps = 0 and at gamma = 0. Rewards are beta log pi(y|x) / |y|.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        beta: Scale of the per-token rewards.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
        simpo_gamma: Reward margin that is asked for, at least 0; recipes often give the ratio gamma / beta instead.
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    chosen, rejected = beta * policy_chosen_logps / chosen_lengths, beta * policy_rejected_logps / rejected_lengths
    as_labelled = -F.logsigmoid(chosen - rejected - simpo_gamma)
    swapped = -F.logsigmoid(rejected - chosen - simpo_gamma)
    losses = expected_over_label(smoothed(p, label_smoothing), as_labelled, swapped)
    return PairLosses(losses, chosen.detach(), rejected.detach())


def orpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """ORPO: `sft_loss` - beta log sigmoid(log odds(y_w) - log odds(y_l)), odds = P / (1 - P), P = exp(log pi(y|x) / |y|).

    Hong et al. 2024 (arXiv 2403.07691), in expectation over the label. TRL's likelihood term differs: it is the mean over all tokens of
    the batch, those of the prompts included. Where P is 1 to rounding, the odds are cut off at 1 / eps of the floating point type.
    Rewards are beta log pi(y|x) / |y|.

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        beta: The paper's lambda: weight of the odds ratio.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    likelihood = sft_loss(policy_chosen_logps, policy_rejected_logps, p=p, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    chosen, rejected = policy_chosen_logps / chosen_lengths, policy_rejected_logps / rejected_lengths
    log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
    odds = expected_over_label(p, -F.logsigmoid(log_odds_ratio), -F.logsigmoid(-log_odds_ratio))
    return PairLosses(likelihood.losses + beta * odds, beta * chosen.detach(), beta * rejected.detach())


def _log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    log_probability = log_probability.clamp(max=-torch.finfo(log_probability.dtype).eps)
    return log_probability - (-log_probability.expm1()).log()


def cpo_loss(
    policy_chosen_logps: torch.Tensor,
    policy_rejected_logps: torch.Tensor,
    *,
    beta: float,
    p: torch.Tensor,
    label_smoothing: float,
    nll_weight: float,
    chosen_lengths: torch.Tensor,
    rejected_lengths: torch.Tensor,
) -> PairLosses:
    """CPO: -log sigmoid(beta (log pi(y_w|x) - log pi(y_l|x))) plus a weight times `sft_loss`, both in expectation over the label.

    Xu et al. 2024 (arXiv 2401.08417): DPO with a uniform reference, and the likelihood of chosen in place of the reference's pull. TRL's
    likelihood term is the mean over all tokens of the batch (see `sft_loss`). Rewards are beta log pi(y|x).

    Args:
        policy_chosen_logps: (batch,) log pi(y_w|x) in nats, summed over response tokens.
        policy_rejected_logps: (batch,) log pi(y_l|x).
        beta: Scale of the rewards.
        p: (batch,) probability that chosen is really preferred, in [0, 1].
        label_smoothing: eps, the assumed share of flipped labels, in [0, 0.5).
        nll_weight: Weight of the negative log-likelihood a token, at least 0.
        chosen_lengths: (batch,) |y_w|, response tokens, at least 1.
        rejected_lengths: (batch,) |y_l|, response tokens, at least 1.
    """
    logps, none = (policy_chosen_logps, policy_rejected_logps), torch.zeros_like(policy_chosen_logps)
    q = smoothed(p, label_smoothing)
    preference = sigmoid_loss(*logps, none, none, beta=beta, p=p, label_smoothing=label_smoothing)
    likelihood = sft_loss(*logps, p=q, chosen_lengths=chosen_lengths, rejected_lengths=rejected_lengths)
    return preference._replace(losses=preference.losses + nll_weight * likelihood.losses)
