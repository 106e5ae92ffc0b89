"""What a challenger must not forget while it learns what people prefer."""

import re
from typing import ClassVar

from pydantic import Field, field_validator

from components.config.section import Section

SHIPPED_TASKS = ("arithmetic", "copying", "format", "system_prompt")
"""Names of the tasks that ship with the project."""
HARNESS = "lm-eval:"
"""Begins the name of a task of lm-evaluation-harness."""
TASK_FILES = (".jsonl", ".json", ".ndjson", ".gz")


class RegressionConfig(Section):
    """Tasks with checkable answers that a challenger must solve about as well as the champion; off without tasks."""

    tasks: tuple[str, ...] = ()
    """Tasks on which challenger and champion are compared: `arithmetic`, `copying`, `format` and `system_prompt` ship
    with the project; a JSONL file holds your own; `lm-eval:NAME` is a task of lm-evaluation-harness."""
    harness_tasks: str = ""
    """Directory of the YAML files of your own lm-evaluation-harness tasks, whose data are local; empty for none."""
    num_items: int = Field(default=400, ge=0)
    """Items of each task that are used, the same in all rounds; 0 uses all."""
    max_loss: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Guard: a challenger is refused unless its share of solved items is surely less than this below the champion's, on
    every task. 0.05 needs at least 80 items at 95 %, and about 450 if the models differ on a tenth of them."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """One-sided level of that bound, for each task."""
    temperature: float = Field(default=0.0, ge=0.0, le=5.0)
    """Sampling temperature of the answers; 0 takes the most likely token each time."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest answer in tokens; a longer one is checked as it is cut."""
    PATHS: ClassVar[tuple[str, ...]] = ("tasks", "harness_tasks")

    @field_validator("tasks")
    @classmethod
    def _have_a_form(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for task in tasks:
            is_name = task in SHIPPED_TASKS or re.fullmatch(rf"{HARNESS}[\w.+-]+", task)
            if not is_name and not task.endswith(TASK_FILES):
                raise ValueError(
                    f"{task!r} is not a task: write {', '.join(SHIPPED_TASKS)}, the path of a JSONL file, or "
                    f"{HARNESS}NAME"
                )
        twice = {task for task in tasks if tasks.count(task) > 1}
        if twice:
            raise ValueError(f"{min(twice)!r} is there twice: leave one of them out")
        return tasks
