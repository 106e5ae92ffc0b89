"""A campaign with many rounds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.campaign.state import known_state, write_state
from components.config import CampaignConfig

pytestmark = pytest.mark.usefixtures("prefect_session")


def test_round_of_a_campaign_with_many_rounds_fits_into_what_prefect_takes(
    runs: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    from flows.iterative_dpo import iterative_dpo

    iterative_dpo(make_config())
    state = known_state("small")
    # Prefect refuses parameters of more than half a mebibyte.
    reasons = (
        "win rate 0.328 [0.216, 0.457] against the champion is not surely above 0.5, "
        "as its lower bound of 0.2159 must be",
    ) * 3
    record = state.rounds[0].model_copy(update={"reasons": reasons, "evidence": None})
    rounds = [state.rounds[0], *(record.model_copy(update={"round": number}) for number in range(2, 801))]
    write_state(runs / "small", state.model_copy(update={"rounds": tuple(rounds)}))
    assert len((runs / "small" / "campaign.json").read_bytes()) > 2**20
    assert iterative_dpo(make_config())["rounds"][-1]["round"] == 801


def test_round_runs_carry_the_campaigns_tag_and_their_tasks_none(
    runs: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, TaskRunFilter, TaskRunFilterFlowRunId

    from flows.iterative_dpo import iterative_dpo

    iterative_dpo(make_config(campaign="tagged"))
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["campaign:tagged"])))
        tasks = client.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id])))
    assert run.name == "tagged-round-001"
    assert len(tasks) >= 7
    assert not any(task.tags for task in tasks)
