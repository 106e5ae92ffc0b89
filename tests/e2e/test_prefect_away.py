"""The Prefect server is away for longer than its silence limit while a training runs."""

import os
import time
from datetime import timedelta
from typing import Any

import pytest

from flows.servers import services

pytestmark = pytest.mark.e2e
AWAY_SECONDS = 90


def test_training_that_outlives_its_server_is_no_dead_run_and_no_second_one_begins_beside_it(
    site: Any, configs: dict[str, str], wait_until: Any
) -> None:
    """It was marked as crashed, its place in the pool was free, and two trainings met on one GPU."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    from flows.prefect_page.automations import automations

    site.deploy(lambda content: None)
    [shipped], [impatient] = automations(None), automations(None, silence=timedelta(seconds=40))
    with temporary_settings(site.api.settings()), get_client(sync_client=True) as client:
        client.update_automation(client.read_automations_by_name(shipped.name)[0].id, impatient)
    long = {"what": {"config_file": configs["slow"], "campaign": "outlives"}, "other": ["training.epochs=1000"]}
    run = site.start("campaign", **long)
    site.wait_for_training("outlives")
    queued = site.start("campaign", what={"config_file": configs["quick"], "campaign": "queued", "num_rounds": 1})
    control = {**os.environ, **services._places(site.runs)}
    services._control(control, "stop", "prefect")
    time.sleep(AWAY_SECONDS)
    services._control(control, "start", "prefect")
    services.wait_until_up(f"{site.prefect}/api/health", "Prefect", log=site.runs / ".services" / "prefect.log")
    told = "its process lives; the Prefect server was away"
    wait_until(lambda: site.state(run)["message"] == told, "the run to be shown as running", 180)
    assert site.state(run)["name"] == "Running"
    assert not (site.runs / "queued" / "round-001").exists(), "a second training began beside it"
    (site.runs / "outlives" / "STOP").touch()
    site.wait_for(run, "Stopped", seconds=120)
    site.wait_for(queued, "Completed", seconds=240)
