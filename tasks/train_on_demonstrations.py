"""Task: train the start model on demonstrations, before round 0 pins it."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from components.artifacts import read_json
from components.campaign.state import round_directory
from components.records import Artifact, SftRequest
from components.runtime.launch import Placement
from tasks.retries import RETRIES
from tasks.stages import run_stage


@task(name="train_on_demonstrations", cache_policy=NO_CACHE, **RETRIES)
def train_on_demonstrations(campaign: Path, request: SftRequest) -> Artifact:
    """Publish the trained model, unless it is already published, and return it.

    Args:
        campaign: The campaign's directory.
        request: The training.
    """
    here = round_directory(campaign, 0)
    run_stage("sft", request, here, where=Placement(num_processes=request.settings.num_processes))
    return Artifact(path=here / "sft", digest=read_json(here / "sft" / "sft.json")["model_digest"])
