"""A round that waits for people, started from a terminal: the same command goes on when they have voted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import read_json, write_json
from components.campaign.state import known_state
from components.campaign.waiting import read_waiting
from components.config import CampaignConfig
from components.labelling.task import LABELLING, VOTES, Vote, Votes, read_task

Make = Callable[..., CampaignConfig]
PEOPLE = {"budget": 4, "judge": {"kind": "people", "people": {"overlap_share": 0.0}}}


def start(config: CampaignConfig) -> Any:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, return_state=True)


def vote_on_all(campaign: Path) -> None:
    (path,) = (campaign / LABELLING).glob("*/task.json")
    task = read_task(path.parent)
    given: dict[str, Any] = {"annotator": "anna", "choice": "first", "shown_left": "second", "seconds": 3.0}
    votes = tuple(
        Vote(vote_id=item.item_id, item_id=item.item_id, at=task.created_at, flag=None, **given) for item in task.items
    )
    write_json(path.parent / VOTES, Votes(task=task.task, closed="quota", closed_at=task.created_at, votes=votes))


@pytest.mark.usefixtures("prefect_session")
def test_round_waits_for_people_and_the_next_start_finishes_it_without_repeating_a_stage(
    runs: Path, make_config: Make
) -> None:
    config = make_config(active=PEOPLE)
    waiting = start(config)
    assert waiting.name == "Waiting"
    assert "round 1 of campaign small waits for people to vote on 4 of 4 pairs" in waiting.message
    known = read_waiting(runs / "small")
    assert known is not None
    assert (known.round, known.flow_run) == (1, None), "no worker could resume a run of a terminal"
    assert start(config).name == "Waiting"
    generated = (runs / "small" / "round-001" / "generate_responses" / "MANIFEST.json").stat().st_mtime_ns
    vote_on_all(runs / "small")
    assert start(config).is_completed()
    assert (runs / "small" / "round-001" / "generate_responses" / "MANIFEST.json").stat().st_mtime_ns == generated
    assert read_waiting(runs / "small") is None
    (record,) = known_state("small").rounds
    assert record.people is not None
    assert record.people.labelled == 4
    assert read_json(runs / "small" / "round-001" / "collect_preferences" / "collect.json")["active"]["asked"] == 4


@pytest.mark.usefixtures("prefect_session")
def test_quota_that_is_lowered_while_the_round_waits_is_taken_without_accepting_changes(
    runs: Path, make_config: Make
) -> None:
    assert start(make_config(active=PEOPLE)).name == "Waiting"
    people = PEOPLE["judge"] | {"people": {"overlap_share": 0.0, "quota": 0.5}}  # type: ignore[operator]
    again = start(make_config(active=PEOPLE | {"judge": people}))
    assert "2 of 4 pairs" in again.message


@pytest.mark.usefixtures("prefect_session")
def test_status_says_what_the_campaign_waits_for_and_when_it_can_go_on(
    runs: Path, make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.commands.look import status

    start(make_config(active=PEOPLE))
    status("small")
    assert "round 1 of campaign small waits for people to vote on 4 of 4 pairs" in capsys.readouterr().out
    vote_on_all(runs / "small")
    status("small")
    assert "people have voted: round 1 can go on" in capsys.readouterr().out
