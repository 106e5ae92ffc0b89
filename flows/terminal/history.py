"""A campaign's past on the terminal: two rounds side by side, a model's lineage, what was removed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from components.report import wording
from components.runtime.printable import printable

if TYPE_CHECKING:
    from components.history.cleanup import Collected
    from components.history.compare import RoundComparison, Row
    from components.history.fresh_answers import FreshAnswers
    from components.history.lineage import Lineage
    from components.history.tree import Node

CONDITIONS = {
    "intact": ("intact", "green"),
    "changed": ("CHANGED since it was published", "bold red"),
    "gone": ("GONE", "bold red"),
    "collected": ("collected", "yellow"),
}


def print_comparison(console: Console, comparison: "RoundComparison") -> None:
    """Print two rounds side by side."""
    _print_rows(console, comparison.names, comparison.measures)
    for warning in comparison.warnings:
        console.print(Text(f"note: {warning}"))
    if comparison.findings:
        console.print("\nwhat the win rates say; each round draws its own held-out prompts")
    for finding in comparison.findings:
        console.print(Text(f"  {finding}"))
    console.print("\nconfiguration")
    for line in comparison.config or ("no key differs",):
        console.print(Text(f"  {line}"))
    console.print("\ndigests, a star where they differ")
    _print_rows(console, comparison.names, [_short(row) for row in comparison.digests])
    for sample in comparison.samples:
        console.print(Text(f"\nprompt: {_plain(sample.prompt)}"))
        answers = (
            f"{_plain(answer.text)}\nreward {wording.decimal(answer.reward, 2)}"
            for answer in (sample.left, sample.right)
        )
        _print_cells(console, comparison.names, [tuple(answers)], ratio=1)
    if not comparison.samples:
        again = f"ratchet compare {' '.join(comparison.names)} --answers 3"
        console.print("\nno held-out prompt whose answers both rounds kept: each round draws its own")
        console.print(f"`{again}` samples both models on the same prompts", highlight=False, soft_wrap=True)
    if comparison.page is not None:
        console.print(f"\nMLflow   {comparison.page}", highlight=False, soft_wrap=True)


def print_answers(console: Console, names: tuple[str, str], answers: Sequence["FreshAnswers"]) -> None:
    """Print the answers of two models to the same prompts side by side."""
    console.print("\nsampled now on the same held-out prompts; a few answers show manners, and prove nothing")
    for answer in answers:
        console.print(Text(f"\nprompt: {_plain(answer.prompt)}"))
        _print_cells(console, names, [(_plain(answer.left), _plain(answer.right))], ratio=1)


def _short(row: "Row") -> "Row":
    from components.history.compare import Row

    mark = "" if row.left == row.right else " *"
    return Row(f"{row.what}{mark}", wording.short_digest(row.left), wording.short_digest(row.right))


def _print_rows(console: Console, names: tuple[str, str], rows: Sequence["Row"]) -> None:
    _print_cells(console, ("", *names), [(row.what, row.left, row.right) for row in rows])


def _print_cells(
    console: Console, headings: Sequence[str], rows: Sequence[tuple[str, ...]], *, ratio: int | None = None
) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=ratio is not None)
    for heading in headings:
        table.add_column(heading, overflow="fold", ratio=ratio)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _plain(text: str) -> str:
    """Return a model's text in one line, with signs in place of line breaks and control characters."""
    return printable(text.replace("\n", "\u21b5").replace("\t", " "))


def print_lineage(console: Console, lineage: "Lineage") -> None:
    """Print a version as one tree per model, its own first."""
    aliases = "".join(f" @{alias}" for alias in lineage.aliases)
    root = Tree(Text(f"{lineage.version}{aliases}"))
    for node in lineage.models:
        _grow(root, node)
    console.print(root)
    if lineage.damaged:
        console.print(f"{len(lineage.damaged)} files are not what was published:", highlight=False)
        for path in lineage.damaged:
            console.print(Text(f"  {path}"), soft_wrap=True)
    else:
        console.print("every file is what was published", highlight=False)


def _grow(tree: Tree, node: "Node") -> None:
    words, style = ("", "") if node.condition is None else CONDITIONS[node.condition]
    parts = [
        (node.what, "bold"),
        ("" if node.digest is None else wording.short_digest(node.digest), ""),
        (words, style),
    ]
    parts += [(node.note or "", ""), (node.path or "", "dim")]
    branch = tree.add(Text("  ").join(Text(*part) for part in parts if part[0]))
    for child in node.children:
        _grow(branch, child)


def print_collected(console: Console, collected: Sequence["Collected"], *, dry_run: bool) -> None:
    """Print what was removed, or would be, and the bytes freed."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("campaign", "round", "what", "size"):
        table.add_column(heading, justify="right" if heading in ("round", "size") else "left", no_wrap=True)
    sizes = []
    for item in collected:
        if item.num_bytes is not None:
            sizes.append(item.num_bytes)
            number = "" if item.round is None else str(item.round)
            table.add_row(item.campaign, number, item.what, decimal(item.num_bytes))
    if table.row_count:
        console.print(table)
    console.print(f"{decimal(sum(sizes))} {'would be ' if dry_run else ''}freed", highlight=False)
