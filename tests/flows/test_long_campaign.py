"""A campaign that has gone on for years."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.campaign import known_state, write_state
from components.config import CampaignConfig

pytestmark = pytest.mark.usefixtures("prefect_session")


def test_round_of_a_campaign_with_many_rounds_fits_into_what_prefect_takes(runs: Path, make_config: Callable[..., CampaignConfig]) -> None:
    from flows.iterative_dpo import iterative_dpo

    iterative_dpo(make_config())
    state = known_state("small")
    # Prefect refuses parameters of more than half a mebibyte.
    reasons = ("win rate 0.328 [0.216, 0.457] against the champion is not surely above 0.5: its lower bound 0.2159 must be",) * 3
    record = state.rounds[0].model_copy(update={"reasons": reasons})
    rounds = [state.rounds[0], *(record.model_copy(update={"round": number}) for number in range(2, 801))]
    write_state(runs / "small", state.model_copy(update={"rounds": tuple(rounds)}))
    assert len((runs / "small" / "campaign.json").read_bytes()) > 2**20
    assert iterative_dpo(make_config())["rounds"][-1]["round"] == 801
