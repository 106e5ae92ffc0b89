"""Task: sample responses to this round's prompts from the current policy."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.artifacts import derive_seed
from components.config import GenerationConfig, PolicyConfig
from components.records import Artifact, GenerateRequest, JudgedRound, Manifest, ModelRef
from components.runtime.launch import run_stage
from tasks.retries import RETRIES


@task(name="generate_responses", cache_policy=NO_CACHE, **RETRIES)
def generate_responses(
    directory: Path,
    *,
    round: int,
    policy: ModelRef,
    limits: PolicyConfig,
    prompts: Artifact,
    per_round: int,
    solved_rounds: int,
    solved_score: float | None,
    earlier: tuple[JudgedRound, ...],
    generation: GenerationConfig,
    campaign_seed: int,
) -> Manifest:
    """Publishes the round's prompts and `samples_per_prompt` responses to each."""
    request = GenerateRequest(
        policy=policy,
        limits=limits,
        prompts=prompts,
        per_round=per_round,
        solved_rounds=solved_rounds,
        solved_score=solved_score,
        earlier=earlier,
        round=round,
        campaign_seed=campaign_seed,
        generation=generation,
        seed=derive_seed(campaign_seed, round, "generate_responses"),
    )
    return run_stage("generate_responses", request, directory, num_processes=generation.num_processes)
