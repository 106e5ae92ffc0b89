"""The outcomes of one model on the items of tasks, kept by the model's digest so that no model is asked twice.

Holds one model in memory at a time. Knows no comparison.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from components.artifacts import derive_seed, digest, read_json, write_json
from components.config import PolicyConfig, RegressionConfig, SamplingEngine
from components.data.messages import with_system
from components.generation.engines import Sampler, opened
from components.generation.responses import respond
from components.generation.sampler import Sampled
from components.generation.sampling_params import SamplingParams
from components.models.loading import give_memory_back
from components.models.tokens import ChatTokenizer, load_chat
from components.records import ModelRef
from components.regression.tasks import Task
from components.runtime import progress
from components.runtime.ranks import rank, world_size

FORMAT = 1
"""Part of the key of kept outcomes: raise it when the same items would be asked or checked otherwise."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asking:
    """How items are asked: everything but the model that an answer depends on."""

    config: RegressionConfig
    limits: PolicyConfig
    engine: SamplingEngine
    batch_size: int
    tensor_parallel_size: int
    seed: int
    """Of the answers, if they are sampled."""

    def key(self, model: ModelRef, task_digest: str) -> str:
        """Return the digest by which outcomes are kept."""
        settings = (self.config.temperature, self.config.max_tokens, self.seed if self.config.temperature else None)
        return digest([FORMAT, model.digest, task_digest, self.limits, self.engine, settings])


@dataclass(frozen=True)
class Outcomes:
    """What one model makes of one task."""

    values: dict[str, float]
    """By item, in the order of the task: 1 solved, 0 not."""
    answers: dict[str, str]
    """By item, the answer; empty if the task keeps none."""


def solve(model: ModelRef, tasks: Sequence[Task], asking: Asking, *, cache: Path) -> dict[str, Outcomes]:
    """Return a model's outcomes by task; what an earlier call found on the same items is read from the cache.

    Every rank of the stage calls this with the same arguments: ranks share the items, and rank 0 writes the cache. The
    model is loaded only if some task is not in the cache.

    Args:
        model: The model.
        tasks: The tasks.
        asking: How they are asked.
        cache: Directory of kept outcomes.

    Raises:
        ValueError: The chat template refuses a prompt, or a prompt is too long; one line that names the item.
        RuntimeError: The model's logits are not finite.
    """
    paths = {task.name: cache / f"{asking.key(model, task.digest)[:32]}.json" for task in tasks}
    known = {task.name: read_outcomes(paths[task.name], list(_ids(task))) for task in tasks}
    missing = [task for task in tasks if known[task.name] is None]
    found = _asked(model, missing, asking) if missing else {}
    for name, outcomes in found.items():
        if rank() == 0:
            write_outcomes(paths[name], outcomes, model=model.digest, task=name)
    return {name: found[name] if outcomes is None else outcomes for name, outcomes in known.items()}


def read_outcomes(path: Path, item_ids: Sequence[str]) -> Outcomes | None:
    """Return kept outcomes; None if there are none, or they are damaged or of other items."""
    try:
        content = read_json(path)
        values = {str(name): float(value) for name, value in content["outcomes"].items()}
        answers = {str(name): str(text) for name, text in content["answers"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s is damaged: its items are answered again", path)
        return None
    return Outcomes(values, answers) if list(values) == list(item_ids) else None


def write_outcomes(path: Path, outcomes: Outcomes, *, model: str, task: str) -> None:
    """Keep outcomes, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"model": model, "task": task, "outcomes": outcomes.values, "answers": outcomes.answers}
    write_json(path, content)


def encode(chat: ChatTokenizer, task: Task, limits: PolicyConfig) -> list[list[int]]:
    """Return the token ids of the prompts of a task's items.

    Raises:
        ValueError: The chat template refuses a prompt, or it is longer than `policy.max_prompt_tokens`; names the item.
    """
    encoded = []
    for item in task.items:
        place = f"regression task {task.name}, item {item.item_id}"
        try:
            ids = chat.prompt_ids(with_system(item.messages, limits.system_prompt))
        except TemplateError as error:
            raise ValueError(
                f"{place}: the chat template refuses the prompt ({' '.join(str(error).split())[:200]}): change it, or "
                "leave the task out of regression.tasks"
            ) from None
        if len(ids) > limits.max_prompt_tokens:
            raise ValueError(
                f"{place}: the prompt has {len(ids)} tokens, more than policy.max_prompt_tokens = "
                f"{limits.max_prompt_tokens}: raise it, shorten the prompt, or leave the task out of regression.tasks"
            )
        encoded.append(ids)
    return encoded


def _asked(model: ModelRef, tasks: Sequence[Task], asking: Asking) -> dict[str, Outcomes]:
    chat = load_chat(model, asking.limits)
    prompts = {task.name: encode(chat, task, asking.limits) for task in tasks}
    report = _reporting(sum(map(len, prompts.values())))
    with opened(
        model,
        asking.limits,
        engine=asking.engine,
        longest=max(len(ids) for of_task in prompts.values() for ids in of_task) + asking.config.max_tokens,
        pad_id=chat.pad_id,
        batch_size=asking.batch_size,
        tensor_parallel_size=asking.tensor_parallel_size,
    ) as policy:
        # Task by task: what one task's answers are must not depend on which other tasks are in the cache.
        found = {task.name: _answered(policy, chat, task, prompts[task.name], model, asking, report) for task in tasks}
    del policy
    give_memory_back()
    return found


def _answered(
    policy: Sampler,
    chat: ChatTokenizer,
    task: Task,
    prompts: Sequence[list[int]],
    model: ModelRef,
    asking: Asking,
    on_batch: Callable[[Sequence[Sampled]], None],
) -> Outcomes:
    """Answer each item with the most likely tokens, or with a sample by a seed of item and model."""
    greedy = asking.config.temperature == 0
    law = SamplingParams(
        temperature=1.0 if greedy else asking.config.temperature,
        top_p=1.0,
        top_k=1 if greedy else 0,
        max_new_tokens=asking.config.max_tokens,
        stop_ids=chat.stop_ids,
    )
    seeds = [[derive_seed(asking.seed, "regression", task.name, item.item_id, model.digest)] for item in task.items]
    responses = respond(policy.draw, chat, prompts, seeds=seeds, law=law, on_batch=on_batch)
    answers = {item.item_id: of_item[0].text for item, of_item in zip(task.items, responses, strict=True)}
    return Outcomes({item.item_id: item.check.outcome(answers[item.item_id]) for item in task.items}, answers)


def _reporting(total: int) -> Callable[[Sequence[Sampled]], None]:
    finished = 0

    def report(batch: Sequence[Sampled]) -> None:
        nonlocal finished
        finished += world_size() * len(batch)
        progress.report(min(finished, total), total, "regression answers")

    return report


def _ids(task: Task) -> list[str]:
    return [item.item_id for item in task.items]
