"""Draw the PNG plots that MLflow shows beside a round's numbers. Reads no files; equal data gives equal bytes."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from components.plots.curves import Training, draw_curves, panels
from components.plots.figures import PAPER, styled, to_png

_COLOURS = {"start": PAPER.start, "champion": PAPER.champion, "challenger": PAPER.challenger}


def evaluation_plots(
    directory: Path,
    *,
    rewards: dict[str, list[float]],
    lengths: dict[str, list[int]],
    outcomes_vs_champion: list[float],
    outcomes_vs_start: list[float],
    e_values: list[float],
    level: float,
) -> list[Path]:
    """Write rewards.png, lengths.png, outcomes.png and evidence.png into `directory`/plots.

    Args:
        directory: The evaluation's stage directory.
        rewards: Judge scores of the responses of start, champion and challenger; NaN for an invalid verdict. Empty for
            a judge that gives no scores: then there is no rewards.png.
        lengths: Tokens of the responses of start, champion and challenger.
        outcomes_vs_champion: The challenger's outcomes, one per held-out prompt: 1 win, 0.5 tie, 0 loss.
        outcomes_vs_start: The same against the start.
        e_values: Evidence of the gate after each judged prompt.
        level: Level of the gate's test: an e-value of 1 / level suffices.

    Returns:
        The written files.
    """
    folder = directory / "plots"
    outcomes = {"vs champion": outcomes_vs_champion, "vs start": outcomes_vs_start}
    written = []
    if any(rewards.values()):
        scores = {name: [value for value in values if not math.isnan(value)] for name, values in rewards.items()}
        written.append(_save(folder / "rewards.png", (6.4, 3.6), lambda axes: _histogram(axes, scores, "judge score")))
    written.append(
        _save(folder / "lengths.png", (6.4, 3.6), lambda axes: _histogram(axes, lengths, "response length, tokens"))
    )
    written.append(_save(folder / "outcomes.png", (6.4, 2.0), lambda axes: _outcome_bars(axes, outcomes)))
    written.append(_save(folder / "evidence.png", (6.4, 3.0), lambda axes: _evidence(axes, e_values, level)))
    return written


def training_plot(directory: Path, metrics: list[dict[str, Any]]) -> Path:
    """Write training.png into `directory`: loss, reward margin, reward accuracy and log-probabilities over steps.

    Args:
        directory: The training's stage directory.
        metrics: The lines of metrics.jsonl.

    Returns:
        The written file.
    """
    with styled(PAPER, "training"):
        figure = Figure(figsize=(9.6, 6.0), layout="constrained")
        grid = figure.subplots(2, 2).flat
        for axes, (title, curves) in zip(grid, panels(PAPER).items(), strict=True):
            draw_curves(axes, [Training(round=0, metrics=metrics, held_out=None)], curves, PAPER)
            axes.set_title(title)
            if len(axes.get_legend_handles_labels()[1]) > 1:
                axes.legend()
        return to_png(figure, directory / "training.png")


def _save(path: Path, size: tuple[float, float], draw: Callable[[Axes], None]) -> Path:
    with styled(PAPER, path.stem):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        return to_png(figure, path)


def _histogram(axes: Axes, values: dict[str, list[float]] | dict[str, list[int]], label: str) -> None:
    """Draw outlines over shared bins: three of them stay readable if they overlap."""
    pooled = np.concatenate([np.asarray(list(series), dtype=float) for series in values.values()])
    edges = bin_edges(pooled, bins=24)
    for name, series in values.items():
        if not series:
            continue
        shares = np.histogram(series, bins=edges)[0] / len(series)
        axes.stairs(
            shares, edges, color=_COLOURS[name], lw=1.8, label=f"{name} (mean {np.mean(series):.2f}, n = {len(series)})"
        )
        axes.axvline(float(np.mean(series)), color=_COLOURS[name], lw=1, ls=(0, (4, 3)))
    axes.set_xlabel(label)
    axes.set_ylabel("share of responses")
    axes.legend()


def _evidence(axes: Axes, e_values: list[float], level: float) -> None:
    # A stake that is lost has no logarithm; a thousandth of the first one is as good as lost.
    shown = np.maximum([1.0, *e_values], 1e-3)
    axes.plot(range(len(shown)), shown, color=PAPER.challenger, label="challenger better than the champion")
    axes.axhline(1 / level, color=PAPER.champion, lw=1, ls=(0, (4, 3)), label=f"suffices ({1 / level:.3g})")
    axes.set_yscale("log")
    axes.set_xlabel("held-out prompts judged")
    axes.set_ylabel("e-value")
    axes.legend()


def _outcome_bars(axes: Axes, outcomes: dict[str, list[float]]) -> None:
    for row, values in enumerate(outcomes.values()):
        left = 0
        for kind, number in outcome_counts(values).items():
            colour = {"win": PAPER.chosen, "tie": PAPER.grid, "loss": PAPER.rejected}[kind]
            axes.barh(row, number, left=left, color=colour, label=f"{kind} for the challenger" if row == 0 else None)
            if number:
                ink = PAPER.ink if kind == "tie" else PAPER.surface
                axes.text(left + number / 2, row, str(number), ha="center", va="center", color=ink)
            left += number
    axes.set_yticks(range(len(outcomes)), list(outcomes))
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("held-out prompts")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def outcome_counts(values: Sequence[float]) -> dict[str, int]:
    """Count the challenger's wins, ties and losses."""
    wins, losses = sum(value == 1.0 for value in values), sum(value == 0.0 for value in values)
    return {"win": wins, "tie": len(values) - wins - losses, "loss": losses}


def bin_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Return the edges of at most `bins` equal bins that cover the values.

    Values on a grid (token counts, the scores of a rule) get bins of a whole number of grid steps. Other bins would
    cover sometimes one step and sometimes two, and show peaks that are not in the data.
    """
    levels = np.unique(np.round(values, 6))
    if len(levels) < 2:
        return np.histogram_bin_edges(values, bins=1)
    positions = (levels - levels[0]) / np.diff(levels).min()
    if positions[-1] > 1000 or np.abs(positions - positions.round()).max() > 1e-3:
        return np.histogram_bin_edges(values, bins=bins)
    steps = round(positions[-1]) + 1
    per_bin = math.ceil(steps / bins)
    edges = np.arange(math.ceil(steps / per_bin) + 1) * per_bin - 0.5
    return levels[0] + edges * np.diff(levels).min()
