"""What people are asked, and what they answered: the two files that the round and the labelling page exchange.

The round writes `task.json`, and again only if the numbers of votes, the quota or the deadline changed. The page
publishes `votes.json` once, when the task closes. Knows no database: readers on other hosts read these two files and
nothing else.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter, model_validator

from components.artifacts import digest, read_record, write_json
from components.data.messages import Messages
from components.records import Record

LABELLING = "labelling"
"""Directory in a campaign's directory that holds its tasks."""
TASK, VOTES = "task.json", "votes.json"
WITHDRAWN = "withdrawn.json"
"""Name of `TASK` once no round asks it any more."""
TASK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
ASKED = ("task", "round", "rubric", "items")
"""What people judge, and by what; everything else of a task may change while they do."""
Side = Literal["first", "second"]
Choice = Literal["first", "second", "tie", "both_bad", "skip"]
Share = Annotated[float, Field(ge=0, le=1)]


class Item(Record):
    """Two answers to one prompt, to be compared."""

    item_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    """See `item_id`."""
    messages: Messages
    first: str
    second: str
    tag: str | None = None
    gold: Side | None = None
    """Known answer of a gold question; None for the items that the round asks about."""


class Task(Record):
    """Items that a round asks people about, and when it has enough."""

    task: Annotated[str, Field(pattern=f"^{TASK_NAME.pattern}$")]
    """Name of the task and of its directory, such as round-003-1a2b3c4d5e6f."""
    campaign: str
    round: int
    rubric: str
    """What annotators go by, in Markdown."""
    votes_per_item: Annotated[int, Field(ge=1)]
    overlap_share: Share
    """Share of the items, chosen by their content, that `overlap_votes` people judge."""
    overlap_votes: Annotated[int, Field(ge=1)]
    gold_share: Share
    """Share of what an annotator sees that are gold questions."""
    quota: Annotated[int, Field(ge=1)]
    """Number of items besides gold questions that must have all of their votes before the round goes on."""
    deadline: str | None
    """UTC time, ISO 8601, at which the task closes whatever was judged; None waits for the quota."""
    created_at: str
    """UTC time, ISO 8601."""
    items: tuple[Item, ...]

    @model_validator(mode="after")
    def _check(self) -> "Task":
        for name in ("deadline", "created_at"):
            value = getattr(self, name)
            if value is not None:
                TypeAdapter(AwareDatetime).validate_python(value)
        if len({item.item_id for item in self.items}) != len(self.items):
            raise ValueError(f"task {self.task} has the same item twice: give each pair of answers once")
        asked = sum(item.gold is None for item in self.items)
        if self.quota > asked:
            raise ValueError(f"quota = {self.quota} is more than the task's {asked} items: lower the quota")
        return self


class Vote(Record):
    """One annotator's answer to one item."""

    vote_id: str
    """Random name that the annotator's browser made, so that a vote that is sent twice counts once."""
    item_id: str
    annotator: str
    choice: Choice
    shown_left: Side | None
    """The answer that stood on the left, or on top; None for a vote of another tool."""
    seconds: float | None
    """Seconds that the page was visible with the item; None for a vote of another tool."""
    at: str
    """UTC time, ISO 8601."""
    flag: str | None
    """What the annotator reported about the item; None if nothing."""


class Votes(Record):
    """The votes of a closed task that stand after undos, in the order in which they were given; gold ones too."""

    task: str
    closed: Literal["quota", "deadline", "by_hand"]
    """Why the task closed."""
    closed_at: str
    """UTC time, ISO 8601."""
    votes: tuple[Vote, ...]


def item_id(messages: Messages, first: str, second: str) -> str:
    """Return the name of an item: the first 16 hexadecimal digits of a sha256 over its messages and both answers."""
    return digest({"messages": messages, "first": first, "second": second})[:16]


def votes_needed(task: Task, item: Item) -> int:
    """Return how many people judge an item; which items more of them judge depends on their content alone."""
    share = int(digest({"overlap": item.item_id})[:8], 16) / 2**32
    return task.overlap_votes if share < task.overlap_share else task.votes_per_item


def write_task(campaign_directory: Path, task: Task) -> Path:
    """Write a task for the page, atomically, and return its directory. Idempotent.

    A task that is there takes the new quota, deadline and numbers of votes, and keeps its votes. A new one withdraws
    the open tasks of its round and of later ones: a round asks one after the other, so what is open was asked of other
    answers or by another rubric, and nobody waits for it any more. Its votes stay in the page's database.

    Raises:
        ValueError: The campaign has another task of this name.
    """
    directory = campaign_directory / LABELLING / task.task
    if (directory / TASK).exists():
        before = read_task(directory)
        if before == task:
            return directory
        if any(getattr(before, name) != getattr(task, name) for name in ASKED):
            raise ValueError(f"{directory / TASK} holds another task: name the task by the digest of its content")
    else:
        _withdraw(campaign_directory, since=task.round)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / TASK, task)
    return directory


def _withdraw(campaign_directory: Path, *, since: int) -> None:
    for task in tasks_of(campaign_directory):
        directory = campaign_directory / LABELLING / task.task
        if task.round >= since and read_votes(directory) is None:
            (directory / TASK).replace(directory / WITHDRAWN)


def read_task(directory: Path) -> Task:
    """Read the task in a directory.

    Raises:
        FileNotFoundError: It has none.
        ValueError: It is damaged.
    """
    path = directory / TASK
    return _task_at(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _task_at(path: Path, modified: int) -> Task:
    return read_record(Task, path)


def tasks_of(campaign_directory: Path, *, round: int | None = None) -> Sequence[Task]:
    """Return a campaign's tasks, by their rounds and names; those of one round, if it is given.

    Raises:
        ValueError: One is damaged.
    """
    paths = (campaign_directory / LABELLING).glob(f"{'*' if round is None else f'round-{round:03d}-*'}/{TASK}")
    return sorted((read_task(path.parent) for path in paths), key=lambda task: (task.round, task.task))


def has_votes(campaign_directory: Path, round: int) -> bool:
    """Return whether all that a round asked people is answered: its tasks are closed, and there is one."""
    tasks = [task.task for task in tasks_of(campaign_directory, round=round)]
    return bool(tasks) and all(read_votes(campaign_directory / LABELLING / name) is not None for name in tasks)


def read_votes(directory: Path) -> Votes | None:
    """Read the votes of the task in a directory; None while it is open.

    A task that closed at its deadline is open again if the round has moved the deadline since.

    Raises:
        ValueError: They are damaged.
    """
    path = directory / VOTES
    votes = read_record(Votes, path) if path.exists() else None
    if votes is not None and votes.closed == "deadline":
        deadline = read_task(directory).deadline
        if deadline is None or datetime.fromisoformat(deadline) > datetime.fromisoformat(votes.closed_at):
            return None
    return votes
