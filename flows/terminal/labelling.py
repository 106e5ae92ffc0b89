"""Labelling on the terminal: how far the tasks are, and what each annotator did."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from components.labelling.progress import AnnotatorFigures, TaskProgress
from components.report.wording import decimal


def print_status(console: Console, tasks: Sequence[TaskProgress], annotators: Sequence[AnnotatorFigures]) -> None:
    """Print a table of the tasks, and one of the annotators if there are votes."""
    table = Table("task", box=None, pad_edge=False, header_style="bold")
    for name in ("labelled", "quota", "votes", "people"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for task in tasks:
        state = f"closed ({task.closed.replace('_', ' ')})" if task.closed else _open(task.deadline)
        table.add_row(task.task, str(task.labelled), str(task.quota), str(task.votes), str(task.annotators), state)
    console.print(table)
    if not annotators:
        return
    people = Table("annotator", box=None, pad_edge=False, header_style="bold")
    for name in ("votes", "skips", "flags", "seconds per item", "gold right"):
        people.add_column(name, justify="right")
    for person in annotators:
        gold = f"{person.gold_right} of {person.gold_seen}" if person.gold_seen else "none seen"
        counts = (str(person.votes), str(person.skips), str(person.flags))
        people.add_row(person.annotator, *counts, decimal(person.seconds_per_item, 1), gold)
    console.print()
    console.print(people)


def _open(deadline: str | None) -> str:
    return f"open until {deadline}" if deadline else "open"
