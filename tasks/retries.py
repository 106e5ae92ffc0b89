"""When a stage's task is tried again: only where the next attempt can end differently."""

from typing import Any, TypedDict

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from components.records import StageFailed


def may_pass(task: Task[..., Any], task_run: TaskRun, state: State) -> bool:
    """Whether the stage failed for a reason that may be gone.

    The network, or a child process that something else ended.
    """
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.may_pass


class Retries(TypedDict):
    """The arguments of Prefect's `task` that are about retries."""

    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Any


RETRIES = Retries(retries=2, retry_delay_seconds=[5.0, 60.0], retry_condition_fn=may_pass)
"""For tasks that load models, talk to judges or start child processes. Training goes on from its last checkpoint."""
