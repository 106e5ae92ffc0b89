"""Draw the loss of a training on demonstrations. Reads no files; equal data gives equal bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from components.plots.curves import Curve, Training, draw_curves
from components.plots.figures import PAPER, styled, to_png


def sft_plot(path: Path, metrics: Sequence[dict[str, Any]], *, before: float, after: float) -> Path:
    """Write the loss of each step, and the held-out loss before the first and behind the last.

    Args:
        path: The PNG file.
        metrics: The lines of metrics.jsonl.
        before: Held-out loss of the base, in nats per token.
        after: Held-out loss of the trained model.
    """
    with styled(PAPER, path.stem):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        curve = Curve("loss", "training", PAPER.challenger)
        draw_curves(axes, [Training(round=0, metrics=metrics, held_out=None)], [curve], PAPER)
        ends = [0, metrics[-1]["step"]]
        axes.plot(ends, [before, after], "D", color=PAPER.ink, ms=4.5, zorder=4, label="held-out, before and after")
        axes.set_ylabel("loss, nats per token")
        axes.legend()
        return to_png(figure, path)
