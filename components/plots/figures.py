"""Style and save figures: one style for the report's inline SVG and for the PNG plots.

Knows no data.

An SVG figure is drawn in stand-in colours that become CSS variables, so that the page's light and dark themes apply to
it. Equal figures give equal bytes: no dates, no random ids, no style of the machine.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.artifacts import write_bytes


@dataclass(frozen=True)
class Palette:
    """Colours by their meaning."""

    ink: str
    muted: str
    grid: str
    surface: str
    start: str
    champion: str
    challenger: str
    chosen: str
    rejected: str


PAPER = Palette("#1c1f24", "#5d646f", "#e3e5e8", "#ffffff", "#6b7280", "#b45309", "#1d5fd1", "#0f766e", "#be3455")
"""Real colours, for PNG."""
THEMED = Palette(*(f"#0000{0xA0 + index:02x}" for index in range(len(fields(Palette)))))
"""Stand-ins that `to_svg` replaces with the CSS variables --ink, --muted and so on."""

_VARIABLES = {
    stand_in: f"var(--{field.name})" for field, stand_in in zip(fields(Palette), astuple(THEMED), strict=True)
}
_TOOLTIP = "tooltip:"


@contextmanager
def styled(palette: Palette, name: str) -> Iterator[None]:
    """Apply the report's style to figures in the block, regardless of the user's matplotlibrc.

    Args:
        palette: Colours of everything that the drawing does not colour itself.
        name: Makes the ids of this figure differ from those of the page's other figures.
    """
    style: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "text.color": palette.ink,
        "axes.edgecolor": palette.muted,
        "axes.facecolor": palette.surface,
        "axes.labelcolor": palette.muted,
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "axes.titlecolor": palette.ink,
        "axes.titlelocation": "left",
        "axes.unicode_minus": True,
        "grid.color": palette.grid,
        "grid.linewidth": 0.8,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "ytick.major.size": 0,
        "lines.linewidth": 1.6,
        "lines.markersize": 5.5,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "legend.columnspacing": 1.4,
        "legend.borderaxespad": 0,
        "figure.facecolor": palette.surface,
    }
    with matplotlib.style.context(["default", style]):
        yield


def new_chart() -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, small so that its text stays readable in a narrow window."""
    figure = Figure(figsize=(4.9, 2.9), layout="constrained")
    return figure, figure.subplots()


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))


def set_tooltip(artist: Artist, text: str) -> None:
    """Show a text while the pointer rests on a mark of an SVG figure."""
    artist.set_gid(_TOOLTIP + text)


def to_svg(figure: Figure, description: str) -> Markup:
    """Return the figure as an SVG element for a page: themed, without ids or styles that affect the rest of the page.

    Args:
        figure: Drawn in `THEMED` colours, within `styled`.
        description: Text for screen readers.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = buffer.getvalue()
    size = re.search(r'viewBox="[^"]*"', svg)
    assert size is not None
    body = svg[svg.index("</defs>") + len("</defs>") :]
    body = re.sub(rf"<g id=(['\"]){_TOOLTIP}(.*?)\1>", r"<g><title>\2</title>", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', lambda attribute: _rounded(attribute[0]), body)
    body = re.sub("|".join(_VARIABLES), lambda colour: _VARIABLES[colour[0]], body)
    body = re.sub(r"\s*\n\s*", " ", body)
    return Markup('<svg role="img" aria-label="{}" ').format(description) + Markup(f"{size[0]}>{body}")


def to_png(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG, atomically, and return its path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def _rounded(attribute: str) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute)
