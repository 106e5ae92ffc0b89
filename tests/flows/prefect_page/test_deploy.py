"""Deploying again leaves what somebody set on the page, and takes up what was edited in the file."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule
from prefect.settings import PREFECT_API_URL

from components.config.shipped import conf_path
from flows.prefect_page.automations import automations
from flows.prefect_page.deploy import POOL, Deployed, deploy, with_store
from flows.servers.key import PrefectApi

pytestmark = [pytest.mark.usefixtures("prefect_session"), pytest.mark.timeout(900)]


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)
        yield client


def put(file: Path, runs: Path) -> Deployed:
    return deploy(PrefectApi(PREFECT_API_URL.value()), file, runs)


def edited_file(place: Path, **changes: Any) -> Path:
    """Write a copy of the shipped file in which some deployments have other values."""
    content = yaml.safe_load(conf_path("prefect.yaml").read_text())
    content["definitions"]["concurrency_limit"] = changes.pop("limit", 1)
    content["deployments"] = [entry | changes.get(entry["name"], {}) for entry in content["deployments"]]
    path = place / "prefect.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def read(client: SyncPrefectClient, name: str) -> Any:
    return client.read_deployment_by_name(f"{'iterative-dpo' if name in ('nightly', 'campaign') else name}/{name}")


def test_deploy_again_keeps_what_a_person_set_and_takes_up_the_file(
    client: SyncPrefectClient, runs: Path, tmp_path: Path
) -> None:
    """The nightly campaign was reset to the demo, at 02:00, with its schedule still on."""
    assert put(edited_file(tmp_path), runs).kept == []
    nightly, own = read(client, "nightly"), {"what": {"config_file": "/srv/my-model.yaml"}}
    client.update_deployment(nightly.id, DeploymentUpdate(parameters=own, tags=["mine"], description="Ours."))
    (schedule,) = nightly.schedules
    night = CronSchedule(cron="30 4 * * *", timezone="Europe/Berlin")
    client.update_deployment_schedule(nightly.id, schedule.id, active=True, schedule=night)
    weekly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 6 * * 0", timezone="UTC"), active=True)
    client.create_deployment_schedules(read(client, "gc").id, [(weekly.schedule, True)])
    variables = read(client, "report").job_variables
    variables["env"] |= {"HTTPS_PROXY": "http://proxy:3128"}
    client.update_deployment(read(client, "report").id, DeploymentUpdate(job_variables=variables))
    client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=3))

    changes = {
        "nightly": {
            "parameters": {"what": {"preset": "jury"}},
            "schedules": [{"slug": "nightly", "cron": "0 3 * * *", "timezone": "UTC", "active": False}],
        },
        "campaign": {"description": "Adds rounds.", "tags": ["ratchet"]},
    }
    for file, times in ((edited_file(tmp_path), 1), (edited_file(tmp_path, limit=2, **changes), 2)):
        for _ in range(times):
            kept = put(file, runs).kept
        after = read(client, "nightly")
        assert (after.parameters, after.tags, after.description) == (own, ["mine"], "Ours.")
        (schedule,) = after.schedules
        assert (schedule.active, schedule.slug) == (True, "nightly")
        assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 4 * * *", "Europe/Berlin")
        assert [each.schedule.cron for each in read(client, "gc").schedules] == ["0 6 * * 0"]
        report = read(client, "report").job_variables
        assert report["env"]["HTTPS_PROXY"] == "http://proxy:3128"
        assert report["env"]["RATCHET_RUNS"] == str(runs)
        assert client.read_work_pool(POOL).concurrency_limit == 3
        assert any(line.startswith("nightly: parameters, description, tags, schedules.nightly.cron") for line in kept)
    campaign = read(client, "campaign")
    assert (campaign.description, campaign.tags) == ("Adds rounds.", ["ratchet"])


def test_deploy_over_what_an_earlier_version_deployed_keeps_edits_and_moves_the_runs(
    client: SyncPrefectClient, runs: Path, tmp_path: Path
) -> None:
    """An earlier version wrote down nothing of what it deployed, nor where runs write."""
    put(edited_file(tmp_path), tmp_path / "before")
    nightly = read(client, "nightly")
    client.update_deployment(nightly.id, DeploymentUpdate(parameters={"what": {"preset": "jury"}}))
    client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=True)
    put(edited_file(tmp_path), runs)
    after = read(client, "nightly")
    assert after.parameters == {"what": {"preset": "jury"}}
    assert after.schedules[0].active
    assert after.job_variables["env"]["RATCHET_RUNS"] == after.job_variables["working_dir"] == str(runs)
    assert after.job_variables["env"]["RATCHET_RUNS_ID"] == (runs / ".id").read_text()


def test_deployments_carry_the_tracking_address_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"name": "campaign", "work_pool": {"job_variables": {"env": {"A": "1"}}}}
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert with_store(entry) == entry
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    carried = with_store(entry)["work_pool"]["job_variables"]["env"]
    assert carried == {"A": "1", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://alice:s3cret@mlflow")
    with pytest.raises(ValueError, match="holds a password") as error:
        with_store(entry)
    assert "s3cret" not in str(error.value)


def test_deploy_again_forgets_no_run_that_prefect_waits_for(
    client: SyncPrefectClient, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that had died before stayed Running for ever: the automation was written anew, and lost what it counted."""
    put(edited_file(tmp_path), runs)
    before = trigger_ids(client)
    put(edited_file(tmp_path), runs)
    assert trigger_ids(client) == before
    monkeypatch.setattr("flows.prefect_page.deploy.automations", partial(automations, silence=timedelta(minutes=3)))
    put(edited_file(tmp_path), runs)
    assert trigger_ids(client) != before


def trigger_ids(client: SyncPrefectClient) -> list[str]:
    """Return the ids of the automations' triggers, under which Prefect keeps what it waits for."""
    return sorted(automation["trigger"]["id"] for automation in client.request("POST", "/automations/filter").json())
