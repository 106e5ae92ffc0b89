"""A conversion on the terminal: what was read, written and left behind."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from components.data.forms.convert import Conversion


def print_conversion(console: Console, conversion: Conversion, out: Path) -> None:
    """Print the two forms, the counts, and everything that the new form does not hold."""
    source, target = conversion.source, conversion.target
    _line(console, "form", f"{source.name} ({source.title})")
    _line(console, "to", f"{target.name} ({target.title})")
    written = f"{conversion.num_written} written as {conversion.num_rows_written} rows"
    _line(console, "pairs", f"{conversion.num_pairs} read from {conversion.num_rows} rows, {written}")
    _line(console, "no pair", _counts(conversion.left_out, "rows"))
    _line(console, "skipped", _counts(conversion.skipped, "pairs", f", which {target.name} does not hold"))
    annotations = {name: count for name, count in sorted(conversion.lost.items()) if name != "columns"}
    _line(console, "not held", _counts(annotations, "pairs"))
    _line(
        console,
        "columns",
        ", ".join(name or "one without a name" for name in conversion.lost_columns),
        after=": not written",
    )
    _line(console, "not read", source.not_read)
    _line(console, "not read", _counts(conversion.unread, "messages"))
    _line(console, "written", str(out))


def _counts(counts: Mapping[str, int], noun: str, after: str = "") -> str:
    listed = "; ".join(f"{name} ({count} {noun if count != 1 else noun[:-1]})" for name, count in counts.items())
    return listed + after if listed else ""


def _line(console: Console, name: str, text: str, after: str = "") -> None:
    if text:
        console.print(f"{name:<9} {text}{after}", highlight=False, soft_wrap=True, markup=False)
