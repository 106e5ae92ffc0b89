"""Task: judge the responses and build preference pairs."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.records import CollectRequest, Manifest
from tasks.judge_keys import provide_keys
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="collect_preferences", cache_policy=NO_CACHE, **RETRIES)
def collect_preferences(directory: Path, request: CollectRequest) -> Manifest:
    """Publish every raw verdict and the pairs made from them."""
    provide_keys(request.judge.config)
    if request.active_judge is not None:
        provide_keys(request.active_judge.config)
    return run_stage("collect_preferences", request, directory)
