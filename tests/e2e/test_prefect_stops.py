"""Runs that end before their time, on real servers: cancelled, suspended, skipped, stopped, or gone with the machine.

A file of its own, because a worker of the tests takes whole files.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from components.artifacts import read_json

pytestmark = pytest.mark.e2e


def press(page: Page, site: Any, flow_run: str, button: str, confirm: str) -> None:
    page.goto(f"{site.prefect}/runs/flow-run/{flow_run}")
    page.get_by_role("button", name=button, exact=True).first.click()
    # To leave a page that has not been answered yet takes its request back.
    with page.expect_response(re.compile(rf"/flow_runs/{flow_run}/(set_state|resume)$"), timeout=60_000) as answer:
        page.get_by_role("button", name=confirm, exact=True).last.click()
    assert answer.value.ok, answer.value.text()
    page.goto("about:blank")  # the run's page draws without a pause, on a processor that the run needs


def test_cancel_on_the_page_ends_children_and_the_next_start_resumes(
    site: Any, configs: dict[str, str], page: Page
) -> None:
    parameters = {
        "what": {"config_file": configs["slow"], "campaign": "cancelled"},
        "other": ["training.num_processes=2"],
    }
    run = site.start("campaign", **parameters)
    site.wait_for_training("cancelled")
    assert [one for one in site.processes() if "components.runtime.rank" in one.cmdline()]
    press(page, site, run, "Cancel", "Confirm")
    site.wait_for(run, "Cancelled", seconds=30)
    assert not [one for one in site.processes() if "components.runtime.rank" in one.cmdline()]
    quicker = ["training.num_processes=2", "training.epochs=30"]
    refused = site.wait_for(site.start("campaign", **parameters | {"other": quicker}), "Failed", "Completed")
    assert "has changed (training.epochs: 60 -> 30): undo the change" in refused["message"]
    site.wait_for(site.start("campaign", **parameters), "Completed", seconds=240)
    assert read_json(site.runs / "cancelled" / "round-001" / "dpo_train" / "train.json")["resumed_from_step"] > 0


def test_suspend_on_the_page_exits_at_once_and_resume_goes_on(
    site: Any, configs: dict[str, str], page: Page, picture: Callable[[str], None], wait_until: Callable[..., None]
) -> None:
    what = {"config_file": configs["slow"], "campaign": "suspended"}
    run = site.start("campaign", what=what)
    site.wait_for_training("suspended")
    press(page, site, run, "Suspend", "Submit")
    site.wait_for(run, "Suspended", seconds=30)
    wait_until(lambda: not site.engines(), "the run's process to end", 12)
    assert site.newest_run("dpo-round")["state"]["name"] == "Suspended"
    page.goto(f"{site.prefect}/runs/flow-run/{run}")
    expect(page.get_by_role("button", name="Resume").first).to_be_visible()
    picture("suspended")
    waiting = site.wait_for(site.start("campaign", what=what), "Skipped", "Completed", "Failed")
    assert waiting["name"] == "Skipped"
    assert "is paused; resume or cancel it on its page" in waiting["message"]
    press(page, site, run, "Resume", "Submit")
    site.wait_for(run, "Completed", seconds=240)
    assert read_json(site.runs / "suspended" / "round-001" / "dpo_train" / "train.json")["resumed_from_step"] > 0


def test_second_start_is_skipped_and_another_campaign_runs_beside(site: Any, configs: dict[str, str]) -> None:
    site.deploy(lambda content: content["definitions"].update(concurrency_limit=2))
    long = {"what": {"config_file": configs["slow"], "campaign": "holder"}, "other": ["training.epochs=1000"]}
    holder = site.start("campaign", **long)
    site.wait_for_training("holder")
    second = site.wait_for(site.start("campaign", **long), "Skipped", "Completed", "Failed")
    assert second["name"] == "Skipped"
    assert holder in second["message"]
    other = site.start("campaign", what={"config_file": configs["quick"], "campaign": "beside", "num_rounds": 1})
    site.wait_for(other, "Completed", seconds=120)
    assert site.state(holder)["name"] == "Running"
    (site.runs / "holder" / "STOP").touch()
    stopped = site.wait_for(holder, "Stopped", seconds=30)
    assert "STOP: remove the file to continue" in stopped["message"]


def test_down_in_the_middle_of_a_run_leaves_no_process_and_the_next_up_goes_on(
    site: Any, configs: dict[str, str]
) -> None:
    what = {"config_file": configs["slow"], "campaign": "ended"}
    run = site.start("campaign", what=what)
    site.wait_for_training("ended")
    site.ratchet("down")
    assert not site.processes()
    site.ratchet("up")
    site.wait_for(site.start("campaign", what=what), "Completed", seconds=240)
    assert read_json(site.runs / "ended" / "round-001" / "dpo_train" / "train.json")["resumed_from_step"] > 0
    assert site.state(run)["type"] in {"CRASHED", "CANCELLED", "FAILED"}
