"""Task: take the thumbs of users that the round trains on."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.records import Manifest, TakeFeedbackRequest
from tasks.stages import run_stage


@task(name="take_feedback", cache_policy=NO_CACHE)
def take_feedback(directory: Path, request: TakeFeedbackRequest) -> Manifest:
    """Publish the thumbs that no earlier round took."""
    return run_stage("take_feedback", request, directory)
