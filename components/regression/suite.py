"""All tasks of a regression suite, checked before a campaign writes its first file. Loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.artifacts import digest
from components.config import RegressionConfig
from components.regression.harness import HarnessTask, load_harness_tasks
from components.regression.tasks import Task, load_tasks
from components.statistics.non_inferiority import items_needed


@dataclass(frozen=True)
class Suite:
    """The tasks that are made of items, and those of lm-evaluation-harness."""

    tasks: tuple[Task, ...]
    of_harness: tuple[HarnessTask, ...]

    @property
    def digest(self) -> str:
        """sha256 of the content of all tasks."""
        return digest([[task.name, task.digest] for part in (self.tasks, self.of_harness) for task in part])


def load_suite(config: RegressionConfig) -> Suite:
    """Load all tasks of a suite.

    Raises:
        ValueError: A task cannot be read; one line with the remedy.
    """
    return Suite(load_tasks(config), load_harness_tasks(config))


def suite_digest(config: RegressionConfig) -> str | None:
    """Check the tasks of a suite, and return the sha256 of their content; None without tasks.

    Raises:
        ValueError: A task cannot be read, or has too few items for the margin; one line with the remedy.
    """
    if not config.tasks:
        return None
    suite = load_suite(config)
    sizes = {task.name: len(task.items) for task in suite.tasks}
    _check_sizes(sizes | {task.name: task.num_items for task in suite.of_harness}, config)
    return suite.digest


def _check_sizes(sizes: Mapping[str, int], config: RegressionConfig) -> None:
    """Refuse a task that no challenger can pass, because even without a single loss its items prove too little.

    Args:
        sizes: Number of items of each task.
        config: The margin and its level.

    Raises:
        ValueError: One line that names the task and the remedy.
    """
    needed = items_needed(config.max_loss, confidence=config.confidence)
    for name, number in sizes.items():
        if number < needed:
            raise ValueError(
                f"regression task {name} has {number} items, but to show a loss below regression.max_loss = "
                f"{config.max_loss:g} takes at least {needed}, even if no answer differs: give it more items, or "
                "raise regression.max_loss"
            )
