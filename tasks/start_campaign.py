"""Task: pin the start model, the judges and the prompts (round 0)."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.campaign.files import read_manifest
from components.campaign.state import keep_start, round_directory, start_directory
from components.records import Manifest, StartRequest
from components.runtime.launch import stage_key
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="start_campaign", cache_policy=NO_CACHE, **RETRIES)
def start_campaign(campaign: Path, request: StartRequest, *, last_round: int, anew: bool) -> Manifest:
    """Publish round 0, unless it is already published.

    Args:
        campaign: The campaign's directory.
        request: What round 0 pins.
        last_round: The last finished round; what was pinned for it and the rounds before it is kept.
        anew: Whether inputs that the request does not name have changed, and the change is accepted.
    """
    published = read_manifest(start_directory(campaign))
    if published is not None and (anew or published.key != stage_key("start", request)):
        keep_start(campaign, last_round)
    return run_stage("start", request, round_directory(campaign, 0), anew=anew)
