"""Task: sample responses to this round's prompts from the current policy."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.config import LauncherConfig
from components.records import GenerateRequest, Manifest
from components.runtime.launch import Placement
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="generate_responses", cache_policy=NO_CACHE, **RETRIES)
def generate_responses(directory: Path, request: GenerateRequest, *, launcher: LauncherConfig) -> Manifest:
    """Publish the round's prompts and `samples_per_prompt` responses to each.

    Args:
        directory: The round's directory.
        request: The policy, the pool of prompts and the settings of the sampling.
        launcher: Who starts the processes.
    """
    generation = request.generation
    where = Placement(
        num_processes=generation.num_processes,
        gpus_per_rank=generation.tensor_parallel_size,
        nodes=generation.nodes,
        launcher=launcher,
    )
    return run_stage("generate_responses", request, directory, where=where)
