"""Run a campaign that belongs to a study or a sweep up to a round, and say why it did not get there."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import tags

from components.campaign.state import campaign_directory, read_state
from components.campaign.stopping import converged_round
from components.config import CampaignConfig
from components.records import (
    ChampionDoubted,
    DataRejected,
    JudgeUnavailable,
    ModelRefused,
    RoundStopped,
    RoundWaits,
    StageFailed,
)
from components.runtime import progress
from components.study.outcomes import Outcome, read_outcome
from flows.dpo_round import STOPPED
from flows.iterative_dpo import iterative_dpo
from flows.prefect_page.waiting import WAITING

FAILURES = (
    ValueError,
    ChampionDoubted,
    DataRejected,
    JudgeUnavailable,
    ModelRefused,
    RoundStopped,
    RoundWaits,
    StageFailed,
)
"""Errors of one campaign, after which the others go on."""


def run_until(campaign: CampaignConfig, *, until: int, arm: str, place: str, tag: str) -> Outcome:
    """Run the rounds of a campaign that are missing, and return what it reached.

    One that has converged before its last round counts by the rounds that it has.

    Args:
        campaign: The campaign.
        until: Last round that it shall have.
        arm: Name of what it stands for.
        place: What the progress says of it, such as `campaign 2 of 8`.
        tag: Tag of its flow runs.

    Raises:
        RoundStopped: The stop-file or a budget ended it, or another process runs it.
        RoundWaits: People have to vote first.
        ValueError: Its configuration or its data are wrong.
        StageFailed: A stage failed.
    """
    with running(campaign.campaign, place), tags(tag):
        state: Any = iterative_dpo(campaign, until=until, return_state=True)
    if state.name == WAITING:
        raise RoundWaits(state.message)
    if state.name == STOPPED:
        raise RoundStopped(state.message)
    state.result()
    directory = campaign_directory(campaign.campaign)
    reached = read_state(directory)
    last = 0 if reached is None else reached.last_round
    converged = converged_round(directory, last) if last < until else None
    rounds = last if converged and last else until
    outcome = read_outcome(directory, arm=arm, seed=campaign.seed, rounds=rounds)
    if outcome is None:
        why = converged or state.message or "the start had nothing to do"
        raise RoundStopped(f"{campaign.campaign} has ended before round {until}: {why}")
    return outcome


def may_pass(error: BaseException) -> bool:
    """Return whether the same campaign may get further when it is started again, without a change of its config."""
    if isinstance(error, StageFailed):
        return error.may_pass
    return isinstance(error, JudgeUnavailable | RoundStopped | RoundWaits)


@contextmanager
def running(name: str, place: str) -> Iterator[None]:
    """Report the work in the block as one of the many that a study or a sweep does."""
    began = time.monotonic()
    progress.began(name, place)
    yield
    progress.ended(name, place, time.monotonic() - began, already_done=False)
