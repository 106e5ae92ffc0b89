"""Draw what a study compares: reward against KL, and win rates. Reads no files; equal data gives equal bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.plots.figures import Palette, set_tooltip

MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, with its interval if there are several."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Path:
    """An arm's models in order, each with its KL to the start and what it reached."""

    kl: Sequence[Mean]
    height: Sequence[Mean]
    seeds: Sequence[tuple[Sequence[float], Sequence[float]]]
    """The same of each seed."""


def colours(palette: Palette) -> list[str]:
    """Return the colours of the arms, which repeat with other markers."""
    return [palette.challenger, palette.champion, palette.chosen, palette.rejected, palette.start, palette.ink]


def draw_frontier(axes: Axes, paths: Mapping[str, Path], palette: Palette, *, height: str) -> None:
    """Draw reward, or win rate, against KL to the start: faint lines of the seeds, the means with their intervals.

    Args:
        axes: The axes.
        paths: The arms by name.
        palette: The colours.
        height: What the y axis is.
    """
    of_arms = colours(palette)
    for number, (name, path) in enumerate(paths.items()):
        colour, marker = of_arms[number % len(of_arms)], MARKERS[number % len(MARKERS)]
        for kl, heights in path.seeds:
            axes.plot(kl, heights, color=colour, lw=0.8, alpha=0.35, zorder=1)
        x, y = ([mean.value for mean in means] for means in (path.kl, path.height))
        axes.errorbar(
            x, y, xerr=_reach(path.kl), yerr=_reach(path.height), color=colour, lw=1.6, elinewidth=0.9, zorder=2
        )
        for place, (at, reached) in enumerate(zip(x, y, strict=True), 1):
            (mark,) = axes.plot([at], [reached], marker, color=colour, zorder=3, label=name if place == 1 else None)
            set_tooltip(mark, f"{name}, model {place} of {len(x)}: {height} {reached:.3f} at {at:.2f} nats")
    axes.set_xlabel("KL to the start, nats a response")
    axes.set_ylabel(height)
    axes.set_xlim(left=0)


def draw_win_rates(axes: Axes, rates: Mapping[str, Mean], palette: Palette) -> None:
    """Draw each arm's win rate against the start model with its interval; 0.5 is the start model itself."""
    of_arms = colours(palette)
    for number, (name, rate) in enumerate(rates.items()):
        (mark,) = axes.plot([rate.value], [number], "o", color=of_arms[number % len(of_arms)], zorder=3)
        set_tooltip(mark, f"{name}: {rate.value:.3f}")
        if rate.low is not None and rate.high is not None:
            axes.plot([rate.low, rate.high], [number, number], color=of_arms[number % len(of_arms)], lw=1.6)
    axes.axvline(0.5, color=palette.muted, lw=1, ls="--")
    axes.set_yticks(range(len(rates)), list(rates))
    axes.set_ylim(len(rates) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("win rate against the start")


def frontier_figure(paths: Mapping[str, Path], palette: Palette, *, height: str) -> Figure:
    """Return the figure of `draw_frontier` with its legend; draw it within `styled`."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    draw_frontier(axes, paths, palette, height=height)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def win_rate_figure(rates: Mapping[str, Mean], palette: Palette) -> Figure:
    """Return the figure of `draw_win_rates`; draw it within `styled`."""
    figure = Figure(figsize=(6.4, 0.9 + 0.34 * len(rates)), layout="constrained")
    draw_win_rates(figure.subplots(), rates, palette)
    return figure


def _reach(means: Sequence[Mean]) -> list[list[float]] | None:
    """Return the distances to the bounds, as matplotlib takes them; None with one seed."""
    if any(mean.low is None or mean.high is None for mean in means):
        return None
    return [
        [mean.value - mean.low for mean in means if mean.low is not None],
        [mean.high - mean.value for mean in means if mean.high is not None],
    ]
