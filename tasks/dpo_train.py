"""Task: train the policy on the round's pairs."""

import shutil
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.artifacts import derive_seed
from components.config import ConstraintsConfig, LoraConfig, PolicyConfig, SoftPromptConfig, TrainingConfig
from components.records import Artifact, Manifest, ModelRef, TrainRequest
from components.runtime.launch import run_stage
from tasks.retries import RETRIES


@task(name="dpo_train", cache_policy=NO_CACHE, **RETRIES)
def dpo_train(
    directory: Path,
    *,
    round: int,
    policy: ModelRef,
    reference: ModelRef,
    train: Artifact,
    eval: Artifact,
    limits: PolicyConfig,
    lora: LoraConfig,
    soft_prompt: SoftPromptConfig,
    training: TrainingConfig,
    constraints: ConstraintsConfig,
    campaign_seed: int,
) -> Manifest:
    """Publishes the trained model or adapter; its checkpoints are then no longer needed."""
    request = TrainRequest(
        policy=policy,
        reference=reference,
        train=train,
        eval=eval,
        limits=limits,
        lora=lora,
        soft_prompt=soft_prompt,
        training=training,
        constraints=constraints,
        round=round,
        seed=derive_seed(campaign_seed, round, "dpo_train"),
    )
    manifest = run_stage("dpo_train", request, directory, num_processes=training.num_processes)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return manifest
