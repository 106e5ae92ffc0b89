"""Task: decide by the gate whether the challenger becomes the champion."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.records import Manifest, PromoteRequest
from tasks.stages import run_stage


@task(name="promote", cache_policy=NO_CACHE)
def promote(directory: Path, request: PromoteRequest) -> Manifest:
    """Publish the decision with its reasons."""
    return run_stage("promote", request, directory)
