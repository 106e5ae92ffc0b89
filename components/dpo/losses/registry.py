"""All losses by name, their weighted sums, and the divergences that may replace the log-ratios of some."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from components.dpo.losses.interface import FirstLoss, Loss, PairLosses, ResponseLosses, describe, describe_responses
from components.dpo.losses.likelihood import cpo_loss, orpo_loss, rpo_loss, sft_loss, simpo_loss
from components.dpo.losses.margins import (
    discopop_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    ipo_mean_loss,
    robust_loss,
    sigmoid_loss,
    sigmoid_norm_loss,
)
from components.dpo.losses.quantities import (
    Function,
    logp_rewards,
    mean_logp_rewards,
    mean_logps,
    mean_score_rewards,
    simpo_rewards,
)
from components.dpo.losses.ratios import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    dpop_loss,
    nca_pair_loss,
    sppo_hard_loss,
    sppo_loss,
)
from components.dpo.losses.transforms import alpha_scores, forward_kl_scores, js_scores, reverse_kl_scores
from components.dpo.losses.transport import aot_loss, aot_unpaired_loss
from components.dpo.losses.unpaired import apo_zero_unpaired_loss, kto_loss, taken_apart


def _always(value: float) -> FirstLoss:
    return lambda p, settings: value


def _first_ipo(p: torch.Tensor, settings: Mapping[str, float]) -> float:
    return 1 / (2 * settings["beta"]) ** 2


def _first_exo(p: torch.Tensor, settings: Mapping[str, float]) -> float:
    epsilon = settings["label_smoothing"]
    q = p * (1 - 2 * epsilon) + epsilon
    return float((-math.log(2) - (q * (1 - q)).log() / 2).mean())


def _first_sppo(p: torch.Tensor, settings: Mapping[str, float]) -> float:
    return float((2 * ((p - 0.5) / settings["beta"]) ** 2).mean())


def _first_sppo_hard(p: torch.Tensor, settings: Mapping[str, float]) -> float:
    return 1 / (2 * settings["beta"] ** 2)


def _first_responses(p: torch.Tensor, settings: Mapping[str, float]) -> float:
    return float((p * settings["desirable_weight"] + (1 - p) * settings["undesirable_weight"]).mean()) / 2


LN2 = math.log(2)
RESPONSE_LOSSES: dict[str, Loss[ResponseLosses]] = {
    "kto": describe_responses(kto_loss, _first_responses),
    "apo_zero_unpaired": describe_responses(apo_zero_unpaired_loss, _first_responses),
}
"""Losses over unpaired responses, each of which is desirable or not; they read `policy_logps` and `reference_logps`."""

LOSSES: dict[str, Loss[PairLosses]] = {
    "sigmoid": describe(sigmoid_loss, _always(LN2)),
    "sigmoid_norm": describe(sigmoid_norm_loss, _always(LN2), rewards=mean_score_rewards),
    "ipo": describe(ipo_loss, _first_ipo),
    "ipo_mean": describe(ipo_mean_loss, _first_ipo, rewards=mean_score_rewards),
    "hinge": describe(hinge_loss, _always(1.0)),
    "robust": describe(robust_loss, _always(LN2)),
    "exo_pair": describe(exo_pair_loss, _first_exo),
    "discopop": describe(discopop_loss, _always((LN2 + 1) / 2)),
    "nca_pair": describe(nca_pair_loss, _always(2 * LN2)),
    "bco_pair": describe(bco_pair_loss, _always(2 * LN2)),
    "sppo": describe(sppo_loss, _first_sppo),
    "sppo_hard": describe(sppo_hard_loss, _first_sppo_hard),
    "apo_zero": describe(apo_zero_loss, _always(1.0)),
    "apo_down": describe(apo_down_loss, _always(1.0)),
    "dpop": describe(dpop_loss, _always(LN2)),
    "aot": describe(aot_loss, _always(LN2), soft_labels=False, couples_batch=True),
    "aot_unpaired": describe(aot_unpaired_loss, _always(LN2), soft_labels=False, couples_batch=True),
    **{name: taken_apart(loss) for name, loss in RESPONSE_LOSSES.items()},
    "sft": describe(sft_loss, rewards=mean_logps),
    "rpo": describe(rpo_loss),
    "simpo": describe(simpo_loss, rewards=simpo_rewards),
    "orpo": describe(orpo_loss, rewards=mean_logp_rewards),
    "cpo": describe(cpo_loss, rewards=logp_rewards),
}
"""Losses over preference pairs; those of responses take the pairs apart."""

DIVERGENCES: dict[str, Function] = {
    "reverse_kl": reverse_kl_scores,
    "forward_kl": forward_kl_scores,
    "js": js_scores,
    "alpha": alpha_scores,
}
"""Scores by which `with_divergence` replaces the log-ratios; `alpha` also reads the setting `divergence_alpha`."""


def weighted_sum(weights: Mapping[str, float]) -> Loss[PairLosses]:
    """Return the loss that is a weighted sum of others, over the same pairs and with the same settings.

    Args:
        weights: Weight of each loss by its name in `LOSSES`, above 0. Rewards are those of the loss named first.

    Raises:
        ValueError: No loss is named, a name is unknown, or a weight is not a finite number above 0.
    """
    if not weights:
        raise ValueError("a weighted sum names no loss: name at least one, such as {'sigmoid': 1.0}")
    for name, weight in weights.items():
        if name not in LOSSES:
            raise ValueError(f"loss {name!r} is unknown: choose from {', '.join(LOSSES)}")
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of loss {name!r} is {weight:g}: give a number above 0, or leave the loss out")
    return Loss(tuple((term, weight * own) for name, weight in weights.items() for term, own in LOSSES[name].terms))


def with_divergence(loss: Loss[PairLosses], divergence: str) -> Loss[PairLosses]:
    """Return the loss whose log-ratios are replaced by the scores of another f-divergence (f-DPO, arXiv 2309.16240).

    The paper derives it for `sigmoid`. For the other losses of the margin it is the same substitution, as in TRL.
    Rewards become beta times the scores. If policy and reference are the same, the scores are 0, as the log-ratios are,
    so the first loss stays what it was.

    Args:
        loss: A loss of the margin only.
        divergence: A key of `DIVERGENCES`.

    Raises:
        ValueError: The loss is not one of the margin, or the divergence is unknown.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence {divergence!r} is unknown: choose from {', '.join(DIVERGENCES)}")
    if not loss.margin_only:
        names = ", ".join(name for name, entry in LOSSES.items() if entry.margin_only)
        remedy = f"choose from {names}, or take reverse_kl"
        raise ValueError(f"divergence {divergence!r} needs a loss of the margin: {remedy}")
    return replace(loss, divergence=DIVERGENCES[divergence])
