"""Draw the loss of a training on demonstrations. Reads no files; equal data gives equal bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
        steps = [entry["step"] for entry in metrics]
        marker = "o" if len(steps) == 1 else None
        losses = [entry["loss"] for entry in metrics]
        axes.plot(steps, losses, color=PAPER.challenger, marker=marker, ms=3, label="training")
        ends = [0, steps[-1]]
        axes.plot(ends, [before, after], "D", color=PAPER.ink, ms=4.5, zorder=4, label="held-out, before and after")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats per token")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend()
        return to_png(figure, path)
