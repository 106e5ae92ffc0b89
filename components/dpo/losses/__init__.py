"""Preference losses: pure functions of summed log-probabilities, one registry. Knows no model, batch or optimizer.

Notation: y_w is the chosen answer, y_l the rejected one, pi the policy, pi_ref the reference, log pi(y|x) the log-probability summed over
response tokens in nats, and |y| their number. An answer's log-ratio is log pi(y|x) - log pi_ref(y|x), and the margin
delta = [log pi(y_w|x) - log pi_ref(y_w|x)] - [log pi(y_l|x) - log pi_ref(y_l|x)]. p is the probability that chosen is really preferred:
p = 1 is the published loss for hard labels, and below that a loss is its expectation over the label unless its docstring says otherwise.
"""

from components.dpo.losses.interface import Loss, PairLosses, ResponseLosses
from components.dpo.losses.margins import ipo_loss, sigmoid_loss
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
    "ResponseLosses",
    "RunningMean",
    "balanced_weights",
    "ipo_loss",
    "length_desensitised_logps",
    "sigmoid_loss",
    "weighted_sum",
    "with_divergence",
    "wpo_weights",
]
