"""Task: pin the start model, the judges and the prompts (round 0)."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.config import CampaignConfig
from components.records import Manifest, StartRequest
from components.runtime.launch import run_stage
from tasks.retries import RETRIES


@task(name="start_campaign", cache_policy=NO_CACHE, **RETRIES)
def start_campaign(config: CampaignConfig, prompts_digest: str, directory: Path) -> Manifest:
    """Publishes round 0, unless it is there."""
    request = StartRequest(
        policy=config.policy,
        judge=config.judge,
        evaluation_judge=config.evaluation_judge,
        active_judge=config.active.judge,
        prompts=config.prompts,
        prompts_digest=prompts_digest,
    )
    return run_stage("start", request, directory)
