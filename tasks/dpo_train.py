"""Task: train the policy on the round's pairs."""

import shutil
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.config import LauncherConfig
from components.records import Manifest, TrainRequest
from components.runtime.launch import Placement
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="dpo_train", cache_policy=NO_CACHE, **RETRIES)
def dpo_train(directory: Path, request: TrainRequest, *, launcher: LauncherConfig) -> Manifest:
    """Publish the trained model or adapter, then remove the checkpoints.

    Args:
        directory: The round's directory.
        request: The pairs, the models and the settings of the training.
        launcher: Who starts the processes.
    """
    training = request.training
    where = Placement(num_processes=training.num_processes, nodes=training.nodes, launcher=launcher)
    manifest = run_stage("dpo_train", request, directory, where=where)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return manifest
