"""When a stage's task is tried again: only if the next attempt can end differently."""

from typing import Any, TypedDict

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from components.records import StageFailed


def may_pass(task: Task[..., Any], task_run: TaskRun, state: State) -> bool:
    """Return whether the stage failed for a reason that may pass: the network, or a child process that was killed."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.may_pass


class Retries(TypedDict):
    """The retry arguments of Prefect's `task`."""

    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Any


RETRIES = Retries(retries=2, retry_delay_seconds=[5.0, 60.0], retry_condition_fn=may_pass)
"""For tasks that load models, ask judges or start child processes. Training continues from its last checkpoint."""
