"""Task: decide by the gate whether the challenger becomes the champion."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.config import GateConfig
from components.records import Artifact, Manifest, PromoteRequest
from components.runtime.launch import run_stage


@task(name="promote", cache_policy=NO_CACHE)
def promote(directory: Path, *, evaluation: Artifact, gate: GateConfig) -> Manifest:
    """Publishes the decision with its reasons."""
    return run_stage("promote", PromoteRequest(evaluation=evaluation, gate=gate), directory)
