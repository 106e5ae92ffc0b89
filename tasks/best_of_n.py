"""Task: have a judge pick the best of several answers of the start model, beside which trained models are put."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.records import BestOfNRequest, Manifest
from components.runtime.launch import Placement
from tasks.judge_keys import provide_keys
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="best_of_n", cache_policy=NO_CACHE, **RETRIES)
def best_of_n(directory: Path, request: BestOfNRequest, *, num_processes: int) -> Manifest:
    """Publish what the picked answers reach against the start model's own.

    Args:
        directory: Directory of the arm and its seed.
        request: The model, the prompts and the judges.
        num_processes: Processes that sample; no result depends on it.
    """
    provide_keys(request.judge.config)
    provide_keys(request.evaluation_judge.config)
    where = Placement(num_processes=num_processes, gpus_per_rank=request.tensor_parallel_size)
    return run_stage("best_of_n", request, directory, where=where)
