"""All losses by name, their weighted sums, and the divergences that may replace the log-ratios of some."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from components.dpo.losses.interface import PAIR_LOGPS, FirstLoss, Loss, PairLosses, ResponseLosses, describe
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
from components.dpo.losses.ratios import apo_down_loss, apo_zero_loss, bco_pair_loss, dpop_loss, nca_pair_loss, sppo_hard_loss, sppo_loss
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
    "kto": describe(kto_loss, _first_responses),
    "apo_zero_unpaired": describe(apo_zero_unpaired_loss, _first_responses),
}
"""Losses over unpaired responses, each of which is desirable or not; they take `policy_logps` and `reference_logps`."""

LOSSES: dict[str, Loss[PairLosses]] = {
    "sigmoid": describe(sigmoid_loss, _always(LN2), margin_only=True),
    "sigmoid_norm": describe(sigmoid_norm_loss, _always(LN2), margin_only=True),
    "ipo": describe(ipo_loss, _first_ipo, margin_only=True),
    "ipo_mean": describe(ipo_mean_loss, _first_ipo, margin_only=True),
    "hinge": describe(hinge_loss, _always(1.0), margin_only=True),
    "robust": describe(robust_loss, _always(LN2), margin_only=True),
    "exo_pair": describe(exo_pair_loss, _first_exo, margin_only=True),
    "discopop": describe(discopop_loss, _always((LN2 + 1) / 2), margin_only=True),
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
    "sft": describe(sft_loss),
    "rpo": describe(rpo_loss),
    "simpo": describe(simpo_loss),
    "orpo": describe(orpo_loss),
    "cpo": describe(cpo_loss),
}
"""Losses over preference pairs; those of responses take the pairs apart."""

DIVERGENCES: dict[str, Callable[..., torch.Tensor]] = {
    "reverse_kl": reverse_kl_scores,
    "forward_kl": forward_kl_scores,
    "js": js_scores,
    "alpha": alpha_scores,
}
"""What `with_divergence` puts in the place of the log-ratios; `alpha` also reads the setting `divergence_alpha`."""


def weighted_sum(weights: Mapping[str, float]) -> Loss[PairLosses]:
    """Makes the loss that is a weighted sum of others, over the same pairs and with the same settings.

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
    parts = [(LOSSES[name], weight) for name, weight in weights.items()]

    def total(*logps: torch.Tensor, **keywords: Any) -> PairLosses:
        available = dict(zip(PAIR_LOGPS, logps, strict=False)) | keywords
        results = [loss.apply(available) for loss, _ in parts]
        losses = torch.stack([weight * result.losses for result, (_, weight) in zip(results, parts, strict=True)]).sum(dim=0)
        return results[0]._replace(losses=losses)

    def first_loss(p: torch.Tensor, settings: Mapping[str, float]) -> float:
        return sum(weight * loss.first_loss(p, settings) for loss, weight in parts if loss.first_loss is not None)

    read = dict.fromkeys(name for loss, _ in parts for name in loss.inputs)
    return Loss(
        total,
        # Log-probabilities come first and in their order, whichever loss reads them.
        inputs=tuple(name for name in PAIR_LOGPS if name in read) + tuple(name for name in read if name not in PAIR_LOGPS),
        settings=tuple(dict.fromkeys(name for loss, _ in parts for name in loss.settings)),
        first_loss=first_loss if all(loss.first_loss is not None for loss, _ in parts) else None,
        margin_only=all(loss.margin_only for loss, _ in parts),
        soft_labels=all(loss.soft_labels for loss, _ in parts),
        couples_batch=any(loss.couples_batch for loss, _ in parts),
    )


def with_divergence(loss: Loss[PairLosses], divergence: str) -> Loss[PairLosses]:
    """Makes the loss whose log-ratios are replaced by the scores of another f-divergence (f-DPO, arXiv 2309.16240).

    The paper derives it for `sigmoid`; for the other losses of the margin it is the same substitution, as in TRL. Rewards become beta
    times the scores. At policy = reference the scores are 0, as the log-ratios are, so the first loss stays what it was.

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
        raise ValueError(f"divergence {divergence!r} needs a loss of the margin: choose from {names}, or take reverse_kl")
    scores = DIVERGENCES[divergence]
    added = tuple(name for name, parameter in inspect.signature(scores).parameters.items() if parameter.annotation is float)

    def scored(
        policy_chosen_logps: torch.Tensor,
        policy_rejected_logps: torch.Tensor,
        reference_chosen_logps: torch.Tensor,
        reference_rejected_logps: torch.Tensor,
        **keywords: Any,
    ) -> PairLosses:
        own = {name: keywords.pop(name) for name in added}
        chosen = scores(policy_chosen_logps - reference_chosen_logps, **own)
        rejected = scores(policy_rejected_logps - reference_rejected_logps, **own)
        none = torch.zeros_like(chosen)
        return loss.function(chosen, rejected, none, none, **keywords)

    return replace(loss, function=scored, settings=(*loss.settings, *added))
