"""Loads the tasks of lm-evaluation-harness that a regression suite names.

The harness is an extra, and it is imported only if a task of it is configured. Knows no model.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts import digest
from components.config import RegressionConfig
from components.config.regression import HARNESS

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LoadedTask

OUTPUT_TYPES = ("generate_until", "multiple_choice")
"""Kinds of tasks that can be asked; the others need likelihoods of whole texts or the rank of each token."""
CHOICE_METRICS = ("acc", "acc_norm")


@dataclass(frozen=True)
class HarnessTask:
    """A task that the harness has loaded."""

    name: str
    """`lm-eval:NAME`."""
    digest: str
    """sha256 of its configuration and of its documents."""
    num_items: int
    loaded: "LoadedTask"


def load_harness_tasks(config: RegressionConfig) -> tuple[HarnessTask, ...]:
    """Load the tasks of lm-evaluation-harness that the suite names; a group gives all of its tasks.

    Raises:
        ValueError: The harness is not installed, or a task is unknown, cannot be loaded or cannot be asked; one line
            with the remedy.
    """
    names = [task.removeprefix(HARNESS) for task in config.tasks if task.startswith(HARNESS)]
    if not names:
        return ()
    if config.harness_tasks and not Path(config.harness_tasks).is_dir():
        raise ValueError(
            f"regression.harness_tasks = {config.harness_tasks} is not a directory: name one of YAML files"
        )
    manager = _manager(names, config.harness_tasks)
    loaded: dict[str, Any] = {}
    for name in names:
        if name not in manager.all_tasks:
            raise ValueError(
                f"regression.tasks: lm-evaluation-harness has no task {name}: correct the name, or name the directory "
                "of its YAML file in regression.harness_tasks"
            )
        try:
            loaded |= manager.load([name])["tasks"]
        except Exception as error:  # whatever its data set or template raises
            raise ValueError(f"regression task {HARNESS}{name} cannot be loaded: {_one_line(error)}") from None
    return tuple(_checked(name, task, config.num_items) for name, task in loaded.items())


def _manager(names: Sequence[str], directory: str) -> Any:
    """Return the index of the user's own tasks, with those of the harness, which take seconds, only if needed."""
    tasks = imported("lm_eval.tasks")
    if directory:
        manager = tasks.TaskManager(include_path=directory, include_defaults=False)
        if set(names) <= set(manager.all_tasks):
            return manager
    return tasks.TaskManager(include_path=directory or None)


def first_metric(task: Any) -> str:
    """Return the metric that the task names first; empty if it names none."""
    metrics = task.get_config("metric_list") or []
    name = metrics[0]["metric"] if metrics else ""
    return str(getattr(name, "__name__", name))


def _checked(name: str, task: Any, num_items: int) -> HarnessTask:
    kind = task.get_config("output_type")
    if kind not in OUTPUT_TYPES:
        raise ValueError(
            f"regression task {HARNESS}{name} has output_type {kind}, and only {' and '.join(OUTPUT_TYPES)} can be "
            "asked: leave it out of regression.tasks"
        )
    if kind == "multiple_choice" and first_metric(task) not in ("", *CHOICE_METRICS):
        raise ValueError(
            f"regression task {HARNESS}{name} has the metric {first_metric(task)}, and of a choice only "
            f"{' and '.join(CHOICE_METRICS)} are known: put one of them first in metric_list"
        )
    documents = list(task.eval_docs)[: num_items or None]
    # Where the documents lie does not count, but what they are.
    settings = {key: value for key, value in task.dump_config().items() if key != "dataset_kwargs"}
    return HarnessTask(f"{HARNESS}{name}", digest(_plain([settings, documents])), len(documents), task)


def _plain(value: Any) -> Any:
    """Return a configuration as JSON values; a function counts by its name, and numbers of other libraries by text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "__qualname__", None) or str(value)


def imported(module: str) -> Any:
    """Return a module of the harness.

    Raises:
        ValueError: It is not installed; one line with the remedy.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"a task of lm-evaluation-harness is configured, and it is not installed ({_one_line(error)}): run "
            "`pip install 'dpo-ratchet[harness]'`, or leave the task out of regression.tasks"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
