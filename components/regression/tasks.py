"""The tasks of a regression suite: read strictly, and named by their content. Knows no model."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.artifacts import digest
from components.config import RegressionConfig
from components.config.regression import HARNESS, SHIPPED_TASKS
from components.data.conversations import conversation
from components.data.messages import Messages
from components.data.rows import read_rows
from components.regression.checks import KINDS, Check, read_check
from components.regression.shipped import shipped_rows

KEYS = ("task", "id", "prompt", "messages", "check")


@dataclass(frozen=True)
class Item:
    """One question with a checkable answer."""

    item_id: str
    messages: Messages
    check: Check


@dataclass(frozen=True)
class Task:
    """A named set of items; its digest is of their content."""

    name: str
    items: tuple[Item, ...]

    @cached_property
    def digest(self) -> str:
        """sha256 of the items, in order."""
        return digest([[item.item_id, item.messages, item.check.model_dump(mode="json")] for item in self.items])


def load_tasks(config: RegressionConfig) -> tuple[Task, ...]:
    """Return the tasks of a suite that are made of items, in the order of the configuration.

    Tasks of lm-evaluation-harness are left out: `components/regression/harness.py` loads them. Of a task with more
    items than `num_items`, those with the lowest content hashes are taken, so that the order of a file says nothing.

    Raises:
        ValueError: A file cannot be read, a row is malformed, or two tasks have one name; one line that names it.
    """
    tasks: dict[str, Task] = {}
    for source in config.tasks:
        if source.startswith(HARNESS):
            continue
        for name, items in _read(source).items():
            if name in tasks:
                raise ValueError(
                    f"{source} has the task {name!r}, which another source has already: rename one of them"
                )
            tasks[name] = Task(name, tuple(_taken(items, config.num_items)))
    return tuple(tasks.values())


def _read(source: str) -> dict[str, list[Item]]:
    """Return the items of a source by task."""
    if source in SHIPPED_TASKS:
        return {source: [_item(row, f"{source} item {row['id']}") for row in shipped_rows(source)]}
    stem = Path(source).name.partition(".")[0]
    tasks: dict[str, list[Item]] = {}
    seen: dict[tuple[str, str], str] = {}
    for row in read_rows(source, split="train", columns=None).rows:
        task = row.values.get("task", stem)
        if not isinstance(task, str) or not task.strip():
            raise ValueError(f"{row.place}: task is {task!r}: give a name, or leave it out for {stem!r}")
        item = _item(row.values, row.place)
        earlier = seen.setdefault((task, item.item_id), row.place)
        if earlier != row.place:
            raise ValueError(
                f"{row.place}: the id {item.item_id!r} of task {task!r} is that of {earlier}: give another"
            )
        tasks.setdefault(task, []).append(item)
    return tasks


def _item(row: Mapping[str, Any], place: str) -> Item:
    """Return the item of a row.

    Raises:
        ValueError: One line that names the row, the key and the remedy.
    """
    unknown = sorted(row.keys() - set(KEYS))
    if unknown:
        raise ValueError(f"{place}: unknown key {unknown[0]}: a row has {', '.join(KEYS)}")
    if ("prompt" in row) == ("messages" in row):
        raise ValueError(f"{place}: give either prompt, a text, or messages, a list of chat messages")
    if "prompt" in row and not isinstance(row["prompt"], str):
        raise ValueError(
            f"{place}: prompt is {type(row['prompt']).__name__}, but must be text: use messages for a list"
        )
    messages = conversation(row["prompt"] if "prompt" in row else row["messages"], place)
    check = _checked(row.get("check"), place)
    named = row.get("id", digest(messages)[:16])
    if isinstance(named, bool) or not isinstance(named, str | int):
        raise ValueError(f"{place}: id is {named!r}: give a text or a whole number")
    return Item(str(named), messages, check)


def _checked(value: Any, place: str) -> Check:
    if not isinstance(value, dict) or value.get("kind") not in KINDS:
        raise ValueError(f"{place}: check is {value!r}: give an object with a kind, one of {', '.join(KINDS)}")
    try:
        return read_check(value)
    except ValidationError as error:
        raise ValueError(f"{place}: check: {_first_problem(error)}") from None
    except Exception as error:  # `re` and `jsonschema` have errors of their own
        raise ValueError(f"{place}: check: {' '.join(str(error).split())}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    # The first part of the place is the kind, and unions add the names of their types.
    key = next((part for part in problem["loc"][1:] if isinstance(part, str)), "")
    if problem["type"] == "missing":
        return f"{key} is missing: add it"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}"
    return f"{key} = {problem['input']!r}: {problem['msg']}"


def _taken(items: Sequence[Item], most: int) -> Iterator[Item]:
    """Yield the items with the lowest hashes of their content, in the order of the source; 0 yields all."""
    if not most or len(items) <= most:
        yield from items
        return
    keys = [hashlib.sha256(f"{item.item_id}/{digest(item.messages)}".encode()).hexdigest() for item in items]
    limit = sorted(keys)[most - 1]
    yield from (item for item, key in zip(items, keys, strict=True) if key <= limit)
