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


@dataclass(frozen=True)
class Curve:
    """One metric: its key in metrics.jsonl, its name in the legend, and its colour."""

    key: str
    label: str
    colour: str


def panels(palette: Palette) -> dict[str, tuple[Curve, ...]]:
    """Return the curves of each panel, by the panel's title."""
    return {
        "Loss": (Curve("loss", "loss", palette.challenger),),
        "Reward margin": (Curve("rewards/margins", "chosen minus rejected", palette.challenger),),
        "Reward accuracy": (Curve("rewards/accuracies", "share of pairs ranked right", palette.challenger),),
        "Log-probabilities": (
            Curve("logps/chosen", "chosen", palette.chosen),
            Curve("logps/rejected", "rejected", palette.rejected),
        ),
    }


def draw_curves(axes: Axes, trainings: Sequence[Training], curves: Sequence[Curve], palette: Palette) -> None:
    """Draw metrics over the steps of all rounds; a diamond is the value on held-out pairs after a round.

    Args:
        axes: Axes to draw on.
        trainings: Rounds in order.
        curves: Metrics that share the vertical axis.
        palette: Colours of the marks between the rounds.
    """
    offset, borders = 0, []
    for index, training in enumerate(trainings):
        steps = np.array([entry["step"] for entry in training.metrics]) + offset
        last = index == len(trainings) - 1
        for curve in curves:
            # A step of single responses may have no desirable one, and then lacks the metrics of those.
            measured = [curve.key in entry for entry in training.metrics]
            values = np.array([entry[curve.key] for entry in training.metrics if curve.key in entry], dtype=float)
            _draw_curve(axes, steps[measured], values, curve, curve.label if last else None)
            if training.held_out is not None and curve.key in training.held_out:
                label = "held-out pairs" if last else None
                axes.plot(
                    steps[-1:], [training.held_out[curve.key]], "D", color=palette.ink, ms=4.5, label=label, zorder=4
                )
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
