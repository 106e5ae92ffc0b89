"""A task as the page works on it: its items by name, and how many votes each needs. Knows no database."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from components.labelling.task import TASK, Item, Side, Task, Vote, read_task, votes_needed

SKIPS = 2
"""People who skip an item until it is given up."""


@dataclass(frozen=True)
class Plan:
    """A task and what follows from it."""

    directory: Path
    task: Task
    items: dict[str, Item]
    """By name, gold questions too."""
    needed: dict[str, int]
    """Number of votes by item, without gold questions; in the order of the names, which follows the content."""
    gold: dict[str, Side]
    """Known answers by item."""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.task

    def is_overdue(self, now: datetime) -> bool:
        """Return whether the deadline has passed."""
        return self.task.deadline is not None and now >= datetime.fromisoformat(self.task.deadline)

    def labelled(self, votes: Iterable[Vote]) -> int:
        """Return how many items, gold questions aside, have all of their votes, or will not get them.

        To skip an item is not a vote. One that two people skipped, or the only person there is, gets no more: else it
        would keep the round waiting for ever.

        Args:
            votes: Those that stand.
        """
        given, skipped = Counter[str](), Counter[str]()
        people = set()
        for vote in votes:
            people.add(vote.annotator)
            (skipped if vote.choice == "skip" else given)[vote.item_id] += 1
        enough_skips = min(SKIPS, len(people)) or SKIPS
        return sum(given[item] >= needed or skipped[item] >= enough_skips for item, needed in self.needed.items())


def read_plan(directory: Path) -> Plan:
    """Read the task in a directory.

    Raises:
        ValueError: It is damaged.
    """
    return _plan_at(directory, (directory / TASK).stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _plan_at(directory: Path, modified: int) -> Plan:
    task = read_task(directory)
    items = {item.item_id: item for item in sorted(task.items, key=lambda item: item.item_id)}
    return Plan(
        directory=directory,
        task=task,
        items=items,
        needed={name: votes_needed(task, item) for name, item in items.items() if item.gold is None},
        gold={name: item.gold for name, item in items.items() if item.gold is not None},
    )
