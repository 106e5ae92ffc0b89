"""Thumbs of users, shown in the terminal."""

from rich.console import Console
from rich.table import Table

from components.feedback.summary import ArmThumbs, CanaryThumbs, Counts
from components.records import Interval


def print_counts(console: Console, campaign: str, counts: Counts) -> None:
    """Print the numbers of thumbs, together and by model."""
    if not counts.total:
        console.print(f"campaign {campaign} has no thumbs: users give them on the page of `ratchet serve {campaign}`")
        return
    table = _table("answers of", "up", "down", "corrections")
    for model, kinds in counts.models.items():
        table.add_row(model, *(str(kinds[kind]) for kind in ("up", "down", "correction")))
    if len(counts.models) > 1:
        table.add_row("all", *(str(counts.kinds[kind]) for kind in ("up", "down", "correction")))
    console.print(table)
    console.print(
        f"{counts.total} thumbs: {counts.unused} unused by any round, {counts.erased} with their texts deleted, "
        f"{counts.unserved} about answers not known to be ours",
        highlight=False,
        soft_wrap=True,
    )


def print_canary(console: Console, thumbs: CanaryThumbs) -> None:
    """Print what users said of champion and challenger while both were served."""
    table = _table("canary", "round", "conversations", "thumbs up (95 %)")
    for name, arm in (("champion", thumbs.champion), ("challenger", thumbs.challenger)):
        table.add_row(name, str(arm.round), str(arm.conversations), _share(arm))
    console.print(table)
    if thumbs.difference is not None:
        console.print(f"challenger minus champion: {_interval(thumbs.difference, '+')}", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _share(arm: ArmThumbs) -> str:
    return "–" if arm.share_up is None else _interval(arm.share_up)


def _interval(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"
