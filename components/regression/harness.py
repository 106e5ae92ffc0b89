"""Tasks of lm-evaluation-harness as tasks of a regression suite: its prompts, filters and metrics, our own sampling.

The harness is an extra, and it is imported only if a task of it is configured.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.artifacts import digest
from components.config import RegressionConfig
from components.config.regression import HARNESS
from components.models.loading import give_memory_back
from components.models.tokens import load_chat
from components.records import ModelRef
from components.regression.answering import Asking, Outcomes, read_outcomes, write_outcomes
from components.runtime.ranks import rank

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LoadedTask

OUTPUT_TYPES = ("generate_until", "multiple_choice")
"""Kinds of tasks that can be asked; the others need likelihoods of whole texts or the rank of each token."""
CHOICE_METRICS = ("acc", "acc_norm")
FEWSHOT_SEED = 1234


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


def solve_harness(model: ModelRef, tasks: Sequence[HarnessTask], asking: Asking, *, cache: Path) -> dict[str, Outcomes]:
    """Return a model's outcomes by task; arguments and cache as of `answering.solve`.

    An outcome is the first metric of the task for one document, after the first filter.

    Raises:
        ValueError: A prompt is too long, or a metric has no number in [0, 1] for each document.
        RuntimeError: The model's logits are not finite.
    """
    paths = {task.name: cache / f"{asking.key(model, task.digest)[:32]}.json" for task in tasks}
    places = {task.name: [str(place) for place in range(task.num_items)] for task in tasks}
    known = {name: read_outcomes(path, places[name]) for name, path in paths.items()}
    missing = [task for task in tasks if known[task.name] is None]
    found = _evaluated(model, missing, asking) if missing else {}
    for name, outcomes in found.items():
        if rank() == 0:
            write_outcomes(paths[name], outcomes, model=model.digest, task=name)
    return {name: found[name] if outcomes is None else outcomes for name, outcomes in known.items()}


def _evaluated(model: ModelRef, tasks: Sequence[HarnessTask], asking: Asking) -> dict[str, Outcomes]:
    from components.regression.harness_model import opened_for_harness

    evaluator = _imported("lm_eval.evaluator")
    with opened_for_harness(model, load_chat(model, asking.limits), asking) as served:
        results = evaluator.evaluate(
            lm=served,
            task_dict={"tasks": {task.loaded.config.task: _seeded(task.loaded) for task in tasks}, "groups": {}},
            limit=asking.config.num_items or None,
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=asking.limits.system_prompt or None,
            apply_chat_template=True,
            fewshot_as_multiturn=True,
        )
    give_memory_back()
    samples: Mapping[str, Sequence[Mapping[str, Any]]] = results["samples"]
    return {task.name: _outcomes(task, samples[task.loaded.config.task]) for task in tasks}


def _manager(names: Sequence[str], directory: str) -> Any:
    """Return the index of the user's own tasks, with those of the harness, which take seconds, only if needed."""
    tasks = _imported("lm_eval.tasks")
    if directory:
        manager = tasks.TaskManager(include_path=directory, include_defaults=False)
        if set(names) <= set(manager.all_tasks):
            return manager
    return tasks.TaskManager(include_path=directory or None)


def _seeded(task: "LoadedTask") -> "LoadedTask":
    """Return a task that draws the same examples for every model, as if it had not been asked before."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task._instances = []
    return task


def _outcomes(task: HarnessTask, samples: Sequence[Mapping[str, Any]]) -> Outcomes:
    first = samples[0]["filter"]
    of_filter = sorted((each for each in samples if each["filter"] == first), key=lambda each: each["doc_id"])
    metric = _metric(task.loaded) or of_filter[0]["metrics"][0]
    values: dict[str, Any] = {str(each["doc_id"]): each.get(metric) for each in of_filter}
    answers = {str(each["doc_id"]): _text(each["filtered_resps"]) for each in of_filter}
    numbers = {place: float(value) for place, value in values.items() if _in_range(value)}
    if len(numbers) != task.num_items:
        odd = next((value for place, value in values.items() if place not in numbers), None)
        raise ValueError(
            f"regression task {task.name}: the metric {metric} gives {odd!r} for a document, but must give a number in "
            "[0, 1] for each: put another metric first in metric_list"
        )
    return Outcomes(numbers, answers)


def _metric(task: Any) -> str:
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
    if kind == "multiple_choice" and _metric(task) not in ("", *CHOICE_METRICS):
        raise ValueError(
            f"regression task {HARNESS}{name} has the metric {_metric(task)}, and of a choice only "
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


def _in_range(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and 0 <= float(value) <= 1


def _text(responses: Any) -> str:
    return responses[0] if len(responses) == 1 and isinstance(responses[0], str) else str(responses)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"a task of lm-evaluation-harness is configured, and it is not installed ({_one_line(error)}): run "
            "`pip install 'dpo-ratchet[harness]'`, or leave the task out of regression.tasks"
        ) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
