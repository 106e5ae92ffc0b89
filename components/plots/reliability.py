"""Draw the reliability diagram of a reward model. Reads no files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from components.plots.figures import PAPER, styled, to_png
from components.statistics.calibration import Bin


def reliability_plot(path: Path, bins: Sequence[Bin]) -> Path:
    """Plot observed against predicted probability, above the number of pairs per bin, and return the path.

    Args:
        path: The PNG file.
        bins: From `calibration.reliability`.
    """
    with styled(PAPER, "reliability"):
        figure = Figure(figsize=(4.9, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        above.plot([0.5, 1], [0.5, 1], color=PAPER.muted, linestyle="--", linewidth=1, label="as sure as right")
        predicted, observed = [each.predicted for each in bins], [each.observed for each in bins]
        spread = [
            [each.observed - each.observed_low for each in bins],
            [each.observed_high - each.observed for each in bins],
        ]
        above.errorbar(
            predicted,
            observed,
            spread,
            color=PAPER.challenger,
            marker="o",
            linestyle="",
            elinewidth=1.2,
            label="held-out pairs, 95 %",
        )
        above.set(ylim=(-0.02, 1.02), ylabel="observed share", title="How often the favoured answer is preferred")
        above.legend(loc="lower right")
        widths = [each.high - each.low for each in bins]
        below.bar(
            [each.low for each in bins],
            [each.num_pairs for each in bins],
            widths,
            align="edge",
            color=PAPER.challenger,
            alpha=0.6,
        )
        below.set(xlim=(0.5, 1.0), xlabel="predicted probability of the favoured answer", ylabel="pairs")
        return to_png(figure, path)
