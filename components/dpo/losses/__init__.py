"""Preference losses: pure functions of what they depend on, one registry. Knows no model, batch or optimizer.

Notation: y_w is the chosen answer, y_l the rejected one, pi the policy, pi_ref the reference. log pi(y|x) is the
log-probability summed over response tokens, in nats, and |y| is their number. An answer's log-ratio is
log pi(y|x) - log pi_ref(y|x). The margin delta is the log-ratio of chosen minus that of rejected. p is the probability
that chosen is really preferred: p = 1 is the published loss for hard labels, and below that a loss is its expectation
over the label unless its docstring says otherwise.

A loss takes such quantities as tensors of shape (batch,) and returns losses of shape (batch,). `quantities` makes them,
and `Loss.apply` adds the rewards.
"""

from components.dpo.losses.interface import Loss, PairLosses
from components.dpo.losses.ratios import RunningMean
from components.dpo.losses.registry import DIVERGENCES, LOSSES, RESPONSE_LOSSES, weighted_sum, with_divergence
from components.dpo.losses.transforms import length_desensitised_logps, wpo_weights
from components.dpo.losses.unpaired import balanced_weights

__all__ = [
    "DIVERGENCES",
    "LOSSES",
    "RESPONSE_LOSSES",
    "Loss",
    "PairLosses",
    "RunningMean",
    "balanced_weights",
    "length_desensitised_logps",
    "weighted_sum",
    "with_divergence",
    "wpo_weights",
]
