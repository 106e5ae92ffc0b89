"""Task: judge the responses and build preference pairs."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from components.records import CollectRequest, Manifest, RoundWaits
from tasks.judge_keys import provide_keys
from tasks.retries import RETRIES
from tasks.stages import run_stage

WAITING = "Waiting"
"""Name of the state of a task that people have to finish: no failure, so it is not tried again."""


@task(name="collect_preferences", cache_policy=NO_CACHE, **RETRIES)
def collect_preferences(directory: Path, request: CollectRequest) -> Any:
    """Publish every raw verdict and the pairs made from them; end as `WAITING` while people are voting."""
    for judge in (request.judge, request.active_judge, request.checked_judge):
        if judge is not None:
            provide_keys(judge.config)
    try:
        return run_stage("collect_preferences", request, directory)
    except RoundWaits as waits:
        return Cancelled(name=WAITING, message=str(waits))


def collect_or_wait(directory: Path, request: CollectRequest) -> Manifest:
    """Run the task.

    Raises:
        RoundWaits: People are asked, and their votes do not suffice yet.
        Exception: As the stage.
    """
    state = collect_preferences(directory, request, return_state=True)
    if state.name == WAITING:
        raise RoundWaits(state.message)
    manifest: Manifest = state.result()
    return manifest
