"""Task: compare challenger, champion and start on the held-out prompts."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.config import LauncherConfig
from components.records import EvaluateRequest, Manifest
from components.runtime.launch import Placement
from tasks.judge_keys import provide_keys
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="evaluate", cache_policy=NO_CACHE, **RETRIES)
def evaluate(directory: Path, request: EvaluateRequest, *, num_processes: int, launcher: LauncherConfig) -> Manifest:
    """Publish win rates with intervals, rewards, KL, lengths, samples and plots.

    Args:
        directory: The round's directory.
        request: The models, the prompts, the judge and the settings of the comparison.
        num_processes: Processes on each node that sample the responses; not part of the request, because no result
            depends on it.
        launcher: Who starts the processes.
    """
    provide_keys(request.judge.config)
    if request.holdout_judge is not None:
        provide_keys(request.holdout_judge.config)
    where = Placement(
        num_processes=num_processes,
        gpus_per_rank=request.tensor_parallel_size,
        nodes=request.evaluation.nodes,
        launcher=launcher,
    )
    return run_stage("evaluate", request, directory, where=where)
