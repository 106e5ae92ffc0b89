"""Draw what a sweep found: the objective by each parameter, and how the search went. Reads no files."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from components.plots.figures import Palette, set_tooltip

COLUMNS = 2
DECADES = 20.0
"""Factor from which a panel has room for the labels of whole decades only."""


@dataclass(frozen=True)
class Slice:
    """The trials by one parameter."""

    name: str
    values: Sequence[str | int | float | bool]
    reached: Sequence[float]
    is_base: Sequence[bool]
    """Whether a trial is the base configuration."""
    is_log: bool
    usual: tuple[float, float] | None
    """Range that the literature uses; None if it has none."""


def slices_figure(slices: Sequence[Slice], palette: Palette, *, objective: str) -> Figure:
    """Return a figure with one panel a parameter; draw it within `styled`."""
    rows = -(-len(slices) // COLUMNS)
    columns = min(COLUMNS, len(slices))
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, each in zip(panels.flat, slices, strict=False):
        _draw_slice(axes, each, palette)
    for axes in panels.flat[len(slices) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel(objective)
    return figure


def _draw_slice(axes: Axes, each: Slice, palette: Palette) -> None:
    is_number = not any(isinstance(value, str | bool) for value in each.values)
    # In a fixed order, whichever value was tried first.
    names = sorted({str(value) for value in each.values})
    places = list(each.values) if is_number else [names.index(str(value)) for value in each.values]
    if is_number and each.usual is not None:
        axes.axvspan(*each.usual, color=palette.chosen, alpha=0.12, lw=0)
    for number, (place, reached) in enumerate(zip(places, each.reached, strict=True)):
        is_base = each.is_base[number]
        colour = palette.champion if is_base else palette.challenger
        (mark,) = axes.plot([place], [reached], "D" if is_base else "o", color=colour, alpha=0.8)
        set_tooltip(mark, f"{each.name} = {each.values[number]}: {reached:.3f}")
    if is_number and each.is_log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < DECADES * low else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if not is_number:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_xlabel(each.name)
