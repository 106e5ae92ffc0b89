"""The outcomes of one model on tasks of lm-evaluation-harness: its prompts, filters and metrics, our own sampling."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.models.loading import give_memory_back
from components.models.tokens import load_chat
from components.records import ModelRef
from components.regression.answering import Asking, Outcomes, read_outcomes, write_outcomes
from components.regression.harness import HarnessTask, first_metric, imported
from components.runtime.ranks import rank

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LoadedTask

FEWSHOT_SEED = 1234
"""Seed by which a task draws its examples, the one of the harness."""


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
    # It imports the harness, as this module must not where no task of it is configured.
    from components.regression.harness_model import opened_for_harness

    evaluator = imported("lm_eval.evaluator")
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
    metric = first_metric(task.loaded) or of_filter[0]["metrics"][0]
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


def _in_range(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and 0 <= float(value) <= 1


def _text(responses: Any) -> str:
    return responses[0] if len(responses) == 1 and isinstance(responses[0], str) else str(responses)
