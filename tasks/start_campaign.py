"""Task: pin the start model, the judges and the prompts (round 0)."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.records import Manifest, StartRequest
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="start_campaign", cache_policy=NO_CACHE, **RETRIES)
def start_campaign(directory: Path, request: StartRequest) -> Manifest:
    """Publish round 0, unless it is already published."""
    return run_stage("start", request, directory)
