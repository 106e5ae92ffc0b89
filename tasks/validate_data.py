"""Task: check the pairs, quarantine those that fail, split the rest into training and evaluation pairs."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.records import Manifest, ValidateRequest
from tasks.stages import run_stage


@task(name="validate_data", cache_policy=NO_CACHE)
def validate_data(directory: Path, request: ValidateRequest) -> Manifest:
    """Publish training pairs, evaluation pairs and the quarantine."""
    return run_stage("validate_data", request, directory)
