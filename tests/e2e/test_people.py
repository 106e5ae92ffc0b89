"""A round that waits for people, on real servers: it holds nothing while they vote, and goes on by itself."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.artifacts import read_json, write_json
from components.labelling.task import LABELLING, VOTES, Vote, Votes, read_task, votes_needed
from flows.prefect_page.continuing import WaitingRounds

pytestmark = pytest.mark.e2e


@pytest.fixture
def people_config(site: Any, configs: dict[str, str]) -> str:
    content = yaml.safe_load(Path(configs["quick"]).read_text())
    people = {"overlap_share": 0.5}
    content |= {"campaign": "people", "num_rounds": 1}
    content["active"] = {"budget": 8, "judge": {"kind": "people", "people": people}}
    path = site.place / "people.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def task_of(campaign: Path) -> Path:
    return next((campaign / LABELLING).glob("*/task.json")).parent


def test_round_waits_without_a_process_and_goes_on_when_people_have_voted(
    site: Any, people_config: str, wait_until: Callable[..., None]
) -> None:
    what = {"config_file": people_config, "campaign": "people"}
    run = site.start("campaign", what=what)
    site.wait_for(run, "Suspended", "Failed", "Cancelled", seconds=180)
    assert site.state(run)["name"] == "Suspended", site.state(run)
    wait_until(
        lambda: not [one for one in site.processes() if "prefect.engine" in one.cmdline()], "the run to exit", 30
    )
    second = site.wait_for(site.start("campaign", what=what), "Skipped", "Completed", "Failed")
    assert second["name"] == "Skipped"
    assert "waits for people" in second["message"]
    campaign = site.runs / "people"
    assert "waits for people" in site.ratchet("status", "people")
    site.ratchet("down")
    site.ratchet("up")
    rounds = WaitingRounds(site.runs, site.api, page="http://127.0.0.1:1")
    rounds.look()
    assert site.state(run)["name"] == "Suspended"
    asked = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    shown = [one for one in site.ask("/artifacts/filter", asked) if one["key"].endswith("-people")]
    assert [(one["type"], one["data"]) for one in shown] == [("progress", 0.0)]
    directory = task_of(campaign)
    task = read_task(directory)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    votes = tuple(
        Vote(
            vote_id=f"{item.item_id}{number}",
            item_id=item.item_id,
            annotator=f"person {number}",
            choice="first",
            shown_left="first",
            seconds=1.0,
            at=now,
            flag=None,
        )
        for item in task.items
        for number in range(votes_needed(task, item))
    )
    write_json(directory / VOTES, Votes(task=task.task, closed="quota", closed_at=now, votes=votes))
    rounds.look()
    site.wait_for(run, "Completed", "Failed", "Crashed", "Cancelled", seconds=180)
    assert site.state(run)["name"] == "Completed", site.state(run)
    state = read_json(campaign / "campaign.json")
    assert [record["round"] for record in state["rounds"]] == [1]
    assert state["rounds"][0]["people"]["labelled"] == len(task.items)
    assert not (campaign / "waiting.json").exists()
    assert os.path.exists(campaign / "report.html")
