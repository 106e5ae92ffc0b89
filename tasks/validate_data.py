"""Task: check the pairs, quarantine those that fail, split the rest into training and evaluation pairs."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.artifacts import derive_seed
from components.config import PolicyConfig, Takes, ValidationConfig
from components.records import Artifact, Manifest, ModelRef, ValidateRequest
from components.runtime.launch import run_stage


@task(name="validate_data", cache_policy=NO_CACHE)
def validate_data(
    directory: Path,
    *,
    round: int,
    preferences: Artifact,
    replayed: tuple[Artifact, ...],
    held_out: Artifact,
    policy: ModelRef,
    limits: PolicyConfig,
    validation: ValidationConfig,
    takes: Takes,
    campaign_seed: int,
) -> Manifest:
    """Publishes training pairs, evaluation pairs and the quarantine."""
    request = ValidateRequest(
        round=round,
        preferences=preferences,
        replayed=replayed,
        held_out=held_out,
        policy=policy,
        limits=limits,
        validation=validation,
        takes=takes,
        seed=derive_seed(campaign_seed, round, "validate_data"),
    )
    return run_stage("validate_data", request, directory)
