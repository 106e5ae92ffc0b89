"""Task: compare challenger, champion and start on the held-out prompts."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.artifacts import derive_seed
from components.config import ConstraintsConfig, EvaluationConfig, GenerationConfig, PolicyConfig
from components.records import Artifact, EvaluateRequest, JudgeRef, Manifest, ModelRef
from components.runtime.launch import run_stage
from tasks.judge_keys import provide_keys
from tasks.retries import RETRIES


@task(name="evaluate", cache_policy=NO_CACHE, **RETRIES)
def evaluate(
    directory: Path,
    *,
    round: int,
    challenger: ModelRef,
    champion: ModelRef,
    start: ModelRef,
    held_out: Artifact,
    training: Artifact,
    limits: PolicyConfig,
    num_held_out: int,
    generation: GenerationConfig,
    judge: JudgeRef,
    evaluation: EvaluationConfig,
    constraints: ConstraintsConfig,
    campaign_seed: int,
) -> Manifest:
    """Publishes win rates with intervals, rewards, KL, lengths, samples and plots."""
    request = EvaluateRequest(
        challenger=challenger,
        champion=champion,
        start=start,
        held_out=held_out,
        training=training,
        limits=limits,
        num_held_out=num_held_out,
        engine=generation.engine,
        batch_size=generation.batch_size,
        judge=judge,
        evaluation=evaluation,
        constraints=constraints,
        seed=derive_seed(campaign_seed, round, "evaluate"),
    )
    provide_keys(judge.config)
    return run_stage("evaluate", request, directory, num_processes=generation.num_processes)
