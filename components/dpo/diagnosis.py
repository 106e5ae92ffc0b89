"""Name what went wrong in a training that ran to its end: functions over its metrics, each with one cause and a remedy.

A training can end with a finite loss and have learned nothing, or the wrong thing. None of these stops a round: the
gate judges the answers. They say why, so that nobody has to read curves.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch

Metrics = Sequence[Mapping[str, float]]

FEWEST_STEPS = 8
"""A quarter of fewer steps is one step, whose pairs say more than the training does. Of fewer steps it is only said
whether anything was learned."""
LEAST_MARGIN = 0.02
"""Growth of the mean reward margin below which nothing was learned. At this margin a pair's loss is ln 2 less 1 %, and
an untrained policy's steps differ by less."""
STILL = 0.95
"""Share of its first value at which a loss has not moved. One with a likelihood term can fall while no margin grows."""
LEAST_MOVE = 0.1
"""Change of a mean reward from which on the policy has plainly moved: five times `LEAST_MARGIN`."""
LEAST_GRADIENT = 1e-6
"""Gradient norm below which no gradient reached the weights; healthy trainings are at 0.1 to 100."""
MOST_LOST = 0.3
"""Nats per token by which chosen answers may become less likely. At 0.3 each of their tokens has lost a quarter of its
probability, and an answer of 30 tokens is 8,000 times less likely. The built-in campaign, which does well, loses 0.02;
at ten times its rate, 4."""
LARGEST_MARGIN = 10.0
"""Mean reward margin from which on pairs teach nothing: the sigmoid loss's gradient is below 5e-5 of its start."""
RISE = 1.2
"""Factor by which chance alone does not raise the loss over a quarter of the steps."""


NEARLY_EQUAL = 0.9
"""Share of equal tokens from which on a pair's two answers are hardly different, so that ln 2 is where its loss rests.
The built-in campaign's pairs have 0.1 to 0.3."""

LEAST_DISTANCE = {"all weights": 1e-5, "adapters": 1e-4}
"""Sum of the steps' learning rates below which a training cannot move its policy. Measured at beta 0.1: the starter's
margins grow by 330 (all weights) and 31 (LoRA of rank 16) times that sum, so by 0.003 at these bounds, a sixth of
`LEAST_MARGIN`. Larger models move further, by up to the root of their size; the bounds leave them a factor of six."""


class Setting(NamedTuple):
    """Facts that a diagnosis needs beside the metrics."""

    learning_rate: float
    beta: float
    dtype: str
    """Precision of the weights: `float32` or `bfloat16`."""
    reference_chosen_logps: float | None
    """Mean over the training pairs of log pi_ref(y_w|x), in nats per answer; None if the loss reads no reference."""
    chosen_tokens: float
    """Mean length of the chosen answers, in tokens."""
    pairs_per_step: int
    epochs: int
    evaluated_margin: float | None
    """Mean reward margin of the evaluation pairs after the last step; None if it did not begin at 0, or without such
    pairs."""
    alike: float | None = None
    """Mean share of a pair's tokens that stand outside of the stretch in which its two answers differ, in [0, 1]; None
    without pairs of two answers."""


def diagnose(metrics: Metrics, setting: Setting) -> list[str]:
    """Return what went wrong, each in one line with what to change; empty if nothing did."""
    # Of unpaired responses, a step may hold none that is desirable.
    metrics = [line for line in metrics if "rewards/chosen" in line and "rewards/rejected" in line]
    stuck = not_learning(metrics, setting)
    if len(metrics) < FEWEST_STEPS:
        return [] if stuck is None else [stuck]
    causes = [
        stuck,
        displaced(metrics, setting),
        exploding(metrics, setting),
        diverging(metrics),
    ]
    return [cause for cause in causes if cause is not None]


def unable_to_learn(rates: Sequence[float], *, trains: str, pairs_per_step: int, epochs: int) -> str | None:
    """Say before a training if its steps are too few and too small to move anything.

    A step of AdamW moves a weight by about the learning rate, whatever the size of the gradient, so the sum of the
    rates is how far a weight can get.

    Args:
        rates: Learning rate of each step.
        trains: `all weights` or `adapters`.
        pairs_per_step: Pairs in a step.
        epochs: Passes over the pairs.
    """
    distance = sum(rates)
    if distance >= LEAST_DISTANCE[trains]:
        return None
    return (
        f"this training can hardly move anything: {len(rates)} steps at training.learning_rate = {max(rates):g} move a "
        f"weight by {distance:.1e} at most; {trains} learn nothing below {LEAST_DISTANCE[trains]:g}. Raise the rate, "
        f"or make more steps (training.pairs_per_step, now {pairs_per_step}, and training.epochs, now {epochs})"
    )


def not_learning(metrics: Metrics, setting: Setting) -> str | None:
    """Say if the margins have not grown.

    The sigmoid loss is then stuck at ln 2 if policy and reference began as the same weights. A training of one step is
    judged by the evaluation pairs, since a step's metrics are of the weights before it.
    """
    if not metrics or (len(metrics) == 1 and setting.evaluated_margin is None):
        return None
    growth, loss = _growth(metrics, "rewards/margins"), _at_end(metrics, "loss")
    fell = loss < STILL * metrics[0]["loss"]
    if max(abs(growth), abs(setting.evaluated_margin or 0.0)) >= LEAST_MARGIN or fell:
        return None
    steps = "1 step" if len(metrics) == 1 else f"{len(metrics)} steps"
    stuck = f"nothing was learned: after {steps} the margins have grown by {growth:.4f} and the loss is {loss:.4f}"
    if _at_end(metrics, "grad_norm") < LEAST_GRADIENT:
        return f"{stuck}, because no gradient reached the weights: are those that are trained frozen, or of no effect?"
    if setting.alike is not None and setting.alike >= NEARLY_EQUAL:
        return (
            f"convergence: the loss rests at {loss:.4f} after {steps}, since chosen and rejected answers are nearly "
            f"the same ({setting.alike:.0%} of their tokens). If the chosen ones are demonstrations, the policy "
            "answers as they do, and nothing is wrong"
        )
    moved = max(abs(_growth(metrics, "rewards/chosen")), abs(_growth(metrics, "rewards/rejected")))
    if moved > LEAST_MOVE:
        causes = "the pairs contradict each other, or the judge's choices are no better than chance"
        return f"{stuck}, although the policy moved: {causes}"
    rate = f"training.learning_rate = {setting.learning_rate:g} is too small: try ten times as much"
    if len(metrics) < FEWEST_STEPS:
        rate += (
            f", or more steps (training.pairs_per_step, now {setting.pairs_per_step}, and training.epochs, now "
            f"{setting.epochs})"
        )
    if setting.dtype == "bfloat16":
        # 8 bits of a weight: what a step adds to the fp32 master shows only once it has grown to half of 1/256.
        return f"{stuck}. {rate}; in bfloat16 a change below 0.2 % of a weight shows only when later ones add to it"
    return f"{stuck}. {rate}"


def displaced(metrics: Metrics, setting: Setting) -> str | None:
    """Say if margins grew while chosen answers became much less likely: likelihood displacement.

    Razin et al. 2024 (arXiv 2410.05779). Probability goes to answers that are in neither set, so the reward accuracy
    looks good while the answers get worse.
    """
    if setting.reference_chosen_logps is None:
        return None
    lost = (setting.reference_chosen_logps - _at_end(metrics, "logps/chosen")) / setting.chosen_tokens
    if lost <= MOST_LOST or _growth(metrics, "rewards/margins") <= 0:
        return None
    return (
        f"likelihood displacement: chosen answers lost {lost:.2f} nats per token against the reference while the "
        f"margins grew. Lower training.learning_rate, raise training.beta (now {setting.beta:g}), or keep chosen "
        "answers likely with a likelihood term (training.added_losses: {sft: 0.2})"
    )


def exploding(metrics: Metrics, setting: Setting) -> str | None:
    """Say if the margins are so large that pairs teach nothing more and only the distance to the reference grows."""
    margin = _at_end(metrics, "rewards/margins")
    if margin <= LARGEST_MARGIN:
        return None
    return (
        f"exploding margins: they ended at {margin:.1f}, where the pairs teach nothing more. Lower "
        f"training.learning_rate (now {setting.learning_rate:g}) or training.epochs, or soften the labels "
        "(training.label_smoothing)"
    )


def diverging(metrics: Metrics) -> str | None:
    """Say if the loss has risen and the margins have fallen: each step undoes more than it teaches."""
    before, after = _at_start(metrics, "loss"), _at_end(metrics, "loss")
    if before <= 0 or after <= RISE * before or _growth(metrics, "rewards/margins") >= 0:
        return None
    return (
        f"diverging: the loss rose from {before:.4f} to {after:.4f} while the margins fell. Lower "
        "training.learning_rate, or warm up longer (training.warmup_share)"
    )


def likeness(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    """Return the share of the longer answer's tokens that stand outside of the stretch in which the two differ."""
    shorter, longer = sorted((chosen, rejected), key=len)
    front = next((place for place, token in enumerate(shorter) if token != longer[place]), len(shorter))
    rest = len(shorter) - front
    back = next((place for place in range(rest) if shorter[-1 - place] != longer[-1 - place]), rest)
    return (front + back) / len(longer)


def reference_moved(cached: torch.Tensor, again: torch.Tensor, *, tolerance: float) -> str | None:
    """Say if the reference is no longer the one that was trained against.

    Args:
        cached: (pairs,) log-probabilities that the loss was measured against, in nats.
        again: (pairs,) those of the same pairs under the reference, loaded afresh.
        tolerance: Nats by which two ways of computing the same may differ.
    """
    worst = float((cached - again).abs().max())
    if worst <= tolerance:
        return None
    return (
        f"the reference moved: its log-probabilities now differ by up to {worst:.3f} nats from those that were trained "
        "against. Its files were changed, or were not those of the reference: remove the round's checkpoints directory "
        "and train again"
    )


def _at_start(metrics: Metrics, name: str) -> float:
    return fmean(line[name] for line in metrics[: _quarter(metrics)])


def _at_end(metrics: Metrics, name: str) -> float:
    return fmean(line[name] for line in metrics[-_quarter(metrics) :])


def _quarter(metrics: Metrics) -> int:
    return max(1, len(metrics) // 4)


def _growth(metrics: Metrics, name: str) -> float:
    """Return the growth from the first step, which is made on untrained weights, to the mean of the last quarter."""
    return _at_end(metrics, name) - metrics[0][name]
