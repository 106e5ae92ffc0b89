"""Draw training curves over optimizer steps, one round after the other.

Used by the report and by the training plot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from components.plots.figures import Palette

LN2 = math.log(2)
SMOOTHED_FROM = 40
"""Number of steps from which a curve is smoothed."""
MAX_ROUNDS = 12
"""Largest number of rounds that can be told apart on one axis."""


@dataclass(frozen=True)
class Training:
    """One round's training: the metrics of each step, and the metrics on held-out pairs afterwards."""

    round: int
    metrics: Sequence[dict[str, Any]]
    held_out: dict[str, Any] | None
    published_step: int | None = None
    """Step whose weights were published and evaluated; None takes the last one."""


@dataclass(frozen=True)
class Curve:
    """One metric: its key in metrics.jsonl, its name in the legend, and its colour."""

    key: str
    label: str
    colour: str


def panels(palette: Palette) -> dict[str, tuple[Curve, ...]]:
    """Return the curves of each panel, by the panel's title."""
    return {
        "Loss": (
            Curve("loss", "loss", palette.challenger),
            Curve("eval/loss", "held-out pairs, during training", palette.champion),
        ),
        "Reward margin": (
            Curve("rewards/margins", "chosen minus rejected", palette.challenger),
            Curve("eval/rewards/margins", "held-out pairs, during training", palette.champion),
        ),
        "Reward accuracy": (
            Curve("rewards/accuracies", "share of pairs ranked right", palette.challenger),
            Curve("eval/rewards/accuracies", "held-out pairs, during training", palette.champion),
        ),
        "Log-probabilities": (
            Curve("logps/chosen", "chosen", palette.chosen),
            Curve("logps/rejected", "rejected", palette.rejected),
        ),
    }


def token_panels(palette: Palette) -> dict[str, tuple[Curve, ...]]:
    """Return the same for what is measured of response tokens. Trainings of earlier versions did not measure it."""
    return {
        "Entropy": (Curve("entropy", "nats per response token", palette.challenger),),
        "Log-ratio to the reference": (Curve("log_ratios/per_token", "nats per response token", palette.challenger),),
        "Log-probabilities per token": (
            Curve("logps/chosen_per_token", "chosen", palette.chosen),
            Curve("logps/rejected_per_token", "rejected", palette.rejected),
        ),
        "Response length in training": (
            Curve("lengths/chosen", "chosen", palette.chosen),
            Curve("lengths/rejected", "rejected", palette.rejected),
        ),
    }


def is_measured(training: Training, curve: Curve) -> bool:
    """Return whether a training has a metric at any of its steps."""
    return any(curve.key in entry for entry in training.metrics)


def draw_curves(axes: Axes, trainings: Sequence[Training], curves: Sequence[Curve], palette: Palette) -> None:
    """Draw metrics over the steps of all rounds; a diamond is the value on held-out pairs after a round.

    Args:
        axes: Axes to draw on.
        trainings: Rounds in order.
        curves: Metrics that share the vertical axis.
        palette: Colours of the marks between the rounds.
    """
    offset, borders = 0, []
    measuring = {
        curve.key: [training.round for training in trainings if is_measured(training, curve)] for curve in curves
    }
    for index, training in enumerate(trainings):
        steps = np.array([entry["step"] for entry in training.metrics]) + offset
        last = index == len(trainings) - 1
        for curve in curves:
            # A step of single responses may have no desirable one, and then lacks the metrics of those.
            # Most trainings are not evaluated in between, and those of earlier versions measured less.
            if not is_measured(training, curve):
                continue
            measured = [curve.key in entry for entry in training.metrics]
            values = np.array([entry[curve.key] for entry in training.metrics if curve.key in entry], dtype=float)
            label = curve.label if training.round == measuring[curve.key][-1] else None
            _draw_curve(axes, steps[measured], values, curve, label)
            if training.held_out is not None and curve.key in training.held_out:
                label = "held-out pairs, after training" if last else None
                at = int(steps[-1]) if training.published_step is None else offset + training.published_step
                axes.plot([at], [training.held_out[curve.key]], "D", color=palette.ink, ms=4.5, label=label, zorder=4)
        if index:
            borders.append(offset + 0.5)
        if len(trainings) > 1:
            place = (offset + (steps[-1] - offset) / 2, 1.0)
            text = f"round {training.round}" if len(trainings) <= MAX_ROUNDS / 2 else str(training.round)
            axes.annotate(text, place, xycoords=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8)
        offset = int(steps[-1])
    axes.vlines(borders, 0, 1, transform=axes.get_xaxis_transform(), color=palette.muted, lw=0.8, ls=(0, (1, 2)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.02)
    axes.set_xlabel("optimizer step")


def _draw_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, curve: Curve, label: str | None) -> None:
    if len(values) < SMOOTHED_FROM:
        marker = "o" if len(values) == 1 else None
        axes.plot(steps, values, color=curve.colour, marker=marker, ms=3, label=label)
        return
    axes.plot(steps, values, color=curve.colour, alpha=0.3, lw=0.9)
    axes.plot(steps, running_mean(values, len(values) // 20), color=curve.colour, label=label)


def running_mean(values: np.ndarray, half_width: int) -> np.ndarray:
    """Return the mean over a centred window of 2 `half_width` + 1 values.

    The window shrinks at both ends, so that it covers only values of the round.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half_width, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
