"""Change log-probabilities before a loss, log-ratios within it, or losses after it. Knows no loss."""

import math

import torch
import torch.nn.functional as F


def length_desensitised_logps(
    token_logps: torch.Tensor, target_mask: torch.Tensor, shared_lengths: torch.Tensor, *, ld_alpha: float
) -> torch.Tensor:
    """Sum log-probabilities with weight 1 up to the length that both answers have and alpha beyond it (LD-DPO).

    Liu et al. 2024 (arXiv 2409.06411). The longer answer's tail is what DPO's preference for length comes from. Policy
    and reference must both be summed so. The result then stands for the summed log-probabilities in any loss with a
    reference.

    Args:
        token_logps: (batch, width) log-probability of each response token in nats, zero where there is none.
        target_mask: (batch, width) bool, true where there is a response token.
        shared_lengths: (batch,) min(|y_w|, |y_l|) of the row's pair, in tokens.
        ld_alpha: Weight of the tail, in [0, 1]; 1 gives the plain sum.

    Returns:
        (batch,) weighted sums, in nats.
    """
    in_tail = target_mask.cumsum(dim=1) > shared_lengths.unsqueeze(1)
    return torch.where(in_tail, ld_alpha * token_logps, token_logps).masked_fill(~target_mask, 0.0).sum(dim=1)


def wpo_weights(token_logps: torch.Tensor, log_collisions: torch.Tensor, target_mask: torch.Tensor) -> torch.Tensor:
    """Return how likely the policy itself would be to give a response, as a geometric mean over its tokens (WPO).

    Zhou et al. 2024 (arXiv 2406.11827): exp of the mean over tokens of log pi(token) - log sum_v pi(v)^2, "sampled
    alignment". The expected ratio of a token that the policy samples is 1, whatever its entropy. A pair's loss is
    multiplied by the product of its two weights. Weights may exceed 1.

    Args:
        token_logps: (batch, width) log pi of each response token under the policy in nats.
        log_collisions: (batch, width) log sum over the vocabulary of pi squared, at each response token; zeros give the
            paper's weights without alignment.
        target_mask: (batch, width) bool, true where there is a response token; each row has one.

    Returns:
        (batch,) weights above 0, detached: the loss must not be lowered by making a response unlikely.
    """
    aligned = (token_logps - log_collisions).detach().masked_fill(~target_mask, 0.0)
    return (aligned.sum(dim=1) / target_mask.sum(dim=1)).exp()


def reverse_kl_scores(log_ratios: torch.Tensor) -> torch.Tensor:
    """Return f'(u) of the reverse KL divergence, which is DPO's: log u. Shapes as `js_scores`."""
    return log_ratios


def forward_kl_scores(log_ratios: torch.Tensor) -> torch.Tensor:
    """Return f'(u) of the forward KL divergence: 1 - 1 / u. It is `alpha_scores` with alpha = 1, with its limits."""
    return alpha_scores(log_ratios, divergence_alpha=1.0)


def js_scores(log_ratios: torch.Tensor) -> torch.Tensor:
    """Return f'(u) of the Jensen-Shannon divergence: log(2 u / (1 + u)).

    Wang et al. 2023 (arXiv 2309.16240), f-DPO: if an f-divergence constrains the policy, f'(pi / pi_ref) replaces the
    log-ratio in the margin of `sigmoid_loss`. The score is bounded above by log 2, so a very likely answer gains
    no more. Constants cancel in the difference of two scores; here they make the score 0 at u = 1.

    Args:
        log_ratios: (batch,) log u = log pi(y|x) - log pi_ref(y|x), in nats.

    Returns:
        (batch,) scores.
    """
    return math.log(2) + F.logsigmoid(log_ratios)


def alpha_scores(log_ratios: torch.Tensor, *, divergence_alpha: float) -> torch.Tensor:
    """Return f'(u) of the alpha-divergence: (1 - u^-alpha) / alpha.

    Its limit at alpha = 0 is the reverse KL, and at 1 it is the forward KL. alpha is that of f-DPO (arXiv 2309.16240);
    TRL's coefficient is 1 - alpha. Unlike TRL, the exponent is bounded in every floating point type and for the forward
    KL too. An answer that has become too unlikely for exp() keeps a finite score and has no gradient.

    Args:
        log_ratios: (batch,) log u = log pi(y|x) - log pi_ref(y|x), in nats, summed over response tokens.
        divergence_alpha: alpha, in [0, 1].

    Returns:
        (batch,) scores, 0 at u = 1.
    """
    if divergence_alpha == 0:
        return log_ratios
    # The room of 8 nats keeps beta times a difference of two scores, and its gradient, below infinity.
    limit = math.log(torch.finfo(log_ratios.dtype).max) - 8
    return -(-divergence_alpha * log_ratios).clamp(max=limit).expm1() / divergence_alpha
