"""Task: judge the responses and build preference pairs."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.artifacts import derive_seed
from components.config import ActiveConfig, PolicyConfig, PreferencesConfig
from components.records import Artifact, CollectRequest, JudgeRef, Manifest, ModelRef
from components.runtime.launch import run_stage
from tasks.judge_keys import provide_keys
from tasks.retries import RETRIES


@task(name="collect_preferences", cache_policy=NO_CACHE, **RETRIES)
def collect_preferences(
    directory: Path,
    *,
    round: int,
    responses: Artifact | None,
    prompts: Artifact | None,
    seed_pairs_digest: str | None,
    judge: JudgeRef,
    policy: ModelRef,
    start: ModelRef,
    limits: PolicyConfig,
    preferences: PreferencesConfig,
    active: ActiveConfig,
    active_judge: JudgeRef | None,
    campaign_seed: int,
) -> Manifest:
    """Publishes every raw verdict and the pairs made from them."""
    request = CollectRequest(
        responses=responses,
        prompts=prompts,
        seed_pairs_digest=seed_pairs_digest,
        judge=judge,
        policy=policy,
        start=start,
        limits=limits,
        preferences=preferences,
        active=active,
        active_judge=active_judge,
        seed=derive_seed(campaign_seed, round, "collect_preferences"),
    )
    for asked in (judge, active_judge):
        if asked is not None:
            provide_keys(asked.config)
    return run_stage("collect_preferences", request, directory)
