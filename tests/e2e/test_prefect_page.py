"""What people do on the Prefect page, done on the real page."""

import os
import re
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from components.artifacts import read_json

pytestmark = pytest.mark.e2e


def open_form(page: Page, site: Any, deployment: str) -> None:
    page.goto(f"{site.prefect}/deployments")
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.get_by_text("Custom run").first.click()
    expect(page.get_by_text("Parameters", exact=True).first).to_be_visible()


def fill(page: Page, label: str, value: str) -> None:
    page.locator(".p-label").filter(has_text=f"{label} (Optional)").last.locator("textarea, input").first.fill(value)


def test_form_filled_and_submitted_runs_rounds_with_artifacts(
    site: Any, configs: dict[str, str], page: Page, picture: Callable[[str], None]
) -> None:
    open_form(page, site, "campaign")
    for text in (
        "Which campaign, and how far.",
        "Any further values, each as section.key=value",
        "Rounds to add; 0 takes the preset's number",
        "Peak learning rate of AdamW",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    assert (
        page.get_by_text("Preset (Optional)").bounding_box()["y"]
        < page.get_by_text("Num Rounds (Optional)").bounding_box()["y"]
    )
    fill(page, "Config File", configs["quick"])
    fill(page, "Num Rounds", "2")
    picture("form")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/*tab=Runs*")
    page.goto("about:blank")
    run = site.newest_run()
    with site.make_worker():
        site.wait_for(run["id"], "Completed", "Failed", "Crashed", seconds=200)
    assert read_json(site.runs / "quick" / "campaign.json")["target"] is None

    page.goto(f"{site.prefect}/runs/flow-run/{run['id']}")
    expect(page.get_by_text("Completed").first).to_be_visible()
    expect(page.get_by_text("quick-rounds-001-002").first).to_be_visible()
    page.get_by_text("Subflow Runs", exact=True).first.click()
    for name in ("quick-round-001", "quick-round-002"):
        expect(page.get_by_text(name).first).to_be_visible()
    picture("run-completed")
    page.goto(f"{site.prefect}/artifacts/key/quick-round-002")
    expect(page.get_by_text("quick-round-002").first).to_be_visible()
    expect(page.get_by_text(re.compile("quick, round 2 (promoted|refused): ")).first).to_be_visible()
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    page.get_by_role("link", name="The rounds side by side in MLflow").first.wait_for()
    picture("artifact-round")
    page.goto(f"{site.prefect}/artifacts/key/quick-rounds")
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    expect(page.get_by_text("wins vs champion").first).to_be_visible()
    picture("artifact-rounds")
    page.goto(f"{site.prefect}/artifacts/key/quick-round-001-progress")
    expect(page.get_by_text("evaluate").first).to_be_visible()


def test_form_value_that_the_schema_excludes_is_refused_on_the_page(
    site: Any, page: Page, picture: Callable[[str], None]
) -> None:
    before = site.newest_run()["id"]
    open_form(page, site, "campaign")
    fill(page, "Campaign", "not a name!")
    fill(page, "Num Rounds", "-3")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_timeout(1500)
    picture("form-refused")
    assert site.newest_run()["id"] == before
    assert "/run" in page.url


def test_form_value_that_only_the_flow_can_check_fails_with_one_line(site: Any) -> None:
    for parameters, message in (
        ({"what": {"config_file": "/nowhere.yaml"}}, "config file /nowhere.yaml does not exist"),
        ({"other": ["training.epoch=3"]}, "unknown key training.epoch; did you mean epochs?"),
        ({"other": ["epochs"]}, "is not a setting: write it as section.key=value"),
    ):
        state = site.wait_for(site.start("campaign", **parameters), "Failed", "Completed")
        assert state["name"] == "Failed"
        assert message in state["message"], state["message"]
        assert "\n" not in state["message"]


def test_schedule_switched_on_fires_and_deploying_again_leaves_it_on(
    site: Any, configs: dict[str, str], page: Page, picture: Callable[[str], None], wait_until: Callable[..., None]
) -> None:
    def every_minute(content: dict[str, Any]) -> None:
        nightly = next(entry for entry in content["deployments"] if entry["name"] == "nightly")
        nightly["schedules"][0]["cron"] = "* * * * *"
        nightly["parameters"] = {"what": {"config_file": configs["quick"], "campaign": "nightly", "num_rounds": 1}}

    site.deploy(every_minute)
    deployment = site.ask("/deployments/name/iterative-dpo/nightly")
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    page.goto(f"{site.prefect}/deployments/deployment/{deployment['id']}")
    switch = page.locator(".deployment-schedule-toggle-button, .p-toggle").first
    switch.click()
    expect(page.get_by_text("Deployment schedule active").first).to_be_visible()
    picture("schedule-on")
    site.deploy(every_minute)
    assert [schedule["active"] for schedule in site.ask("/deployments/name/iterative-dpo/nightly")["schedules"]] == [
        True
    ]
    fired = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}, "state": {"name": {"any_": ["Completed"]}}}}
    wait_until(lambda: bool(site.ask("/flow_runs/filter", fired)), "the schedule to fire", 150)
    switched_off = page.locator(".deployment-schedule-toggle-button, .p-toggle").first
    switched_off.click()
    assert "auto-scheduled" in site.ask("/flow_runs/filter", fired)[0]["tags"]


def test_webhook_is_told_of_promoted_refused_and_failed(site: Any) -> None:
    told = {message["event"] for message in site.told}
    assert "ratchet.run.failed" in told
    rounds = [message for message in site.told if message["event"].startswith("ratchet.round.")]
    assert rounds
    for message in rounds:
        assert (
            f"{message['campaign']}, round {message['round']} {message['event'].rpartition('.')[2]}: "
            in message["text"]
        )


def test_run_whose_worker_and_engine_died_is_marked_crashed(site: Any, configs: dict[str, str]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    from flows.prefect_page.automations import automations

    [shipped] = automations(None)
    [impatient] = automations(None, silence=timedelta(seconds=40))
    with temporary_settings(site.api.settings()), get_client(sync_client=True) as client:
        client.update_automation(client.read_automations_by_name(shipped.name)[0].id, impatient)
    run = site.start("campaign", what={"config_file": configs["slow"], "campaign": "zombie"})
    site.wait_for_training("zombie")
    dying = [one for one in site.processes() if "prefect.engine" in one.cmdline() or "worker" in one.cmdline()]
    assert len(dying) >= 2
    for process in dying:
        os.kill(process.pid, signal.SIGKILL)
    state = site.wait_for(run, "Crashed", seconds=150)
    assert "its process is gone" in state["message"]
