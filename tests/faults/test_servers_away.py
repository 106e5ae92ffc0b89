"""Background servers, a worker or both that go away in the middle of a training that the Prefect page shows."""

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.artifacts import read_json
from components.runtime.ports import free_port
from flows.prefect_page.outage import LOOK_SECONDS
from flows.servers.supervisord import Supervisord
from flows.servers.temporary import wait_until_up
from tests.e2e.conftest import Site, wait_until
from tests.faults.campaigns import CHECKOUT, STRIKE, WHOLE

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not WHOLE, reason="takes a quarter of an hour; make test-faults"),
]
SILENCE = timedelta(seconds=40)
AWAY_SECONDS = 90
SAVING = "before replace cancelled/*/.unfinished/HASHES.json *(2)"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Site]:
    """The servers, up and deployed, with an automation that soon takes silent runs for dead."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    from flows.prefect_page.automations import automations

    place = tmp_path_factory.mktemp("site")
    ports = {f"RATCHET_{name}_PORT": str(free_port()) for name in ("PREFECT", "MLFLOW", "LABEL")}
    environment = {
        **os.environ,
        **ports,
        "RATCHET_RUNS": str(place / "runs"),
        "PREFECT_HOME": str(place / "prefect"),
        "PYTHONPATH": str(CHECKOUT),
    }
    prefect, mlflow, _ = (f"http://127.0.0.1:{port}" for port in ports.values())
    site = Site(place, prefect, mlflow, environment)

    def struck(content: dict[str, Any]) -> None:
        """Hold runs of one campaign, in the middle of a checkpoint."""
        held = {"RATCHET_STRIKE": str(place / "strike.json"), "PYTHONPATH": f"{STRIKE}{os.pathsep}{CHECKOUT}"}
        for entry in content["deployments"]:
            entry["work_pool"]["job_variables"]["env"] |= held

    settings = {"runs": str(site.runs), "action": "hold", "points": [], "log": str(place / "points.txt")}
    (place / "strike.json").write_text(json.dumps(settings | {"pattern": SAVING, "program": "prefect.engine"}))
    try:
        site.ratchet("up")
        site.deploy(struck)
        [shipped], [impatient] = automations(None), automations(None, silence=SILENCE)
        with temporary_settings(site.api.settings()), get_client(sync_client=True) as client:
            client.update_automation(client.read_automations_by_name(shipped.name)[0].id, impatient)
        yield site
    finally:
        site.ratchet("down")
    wait_until(lambda: not site.processes(), "every process to end", 20)


@pytest.fixture(scope="module")
def slow(site: Site, model: Path) -> dict[str, Any]:
    """What starts a campaign of one round that trains for about half a minute."""
    config = {
        "campaign": "slow",
        "num_rounds": 1,
        "policy": {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40},
        "prompts": {"per_round": 48, "num_held_out": 64},
        "generation": {"samples_per_prompt": 4, "batch_size": 48},
        "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
        "training": {
            "learning_rate": 1e-6,
            "epochs": 60,
            "pairs_per_step": 8,
            "micro_batch_pairs": 8,
            "checkpoint_every": 10,
        },
        "gate": {"max_unfinished_increase": 1.0},
    }
    path = site.place / "slow.yaml"
    path.write_text(yaml.safe_dump(config))
    return {"config_file": str(path), "num_rounds": 1}


def check_finished(site: Site, campaign: str) -> None:
    """Check that a campaign has its round once, that its training was resumed, and that nothing of it still runs."""
    directory = site.runs / campaign
    state = read_json(directory / "campaign.json")
    assert [record["round"] for record in state["rounds"]] == [1]
    assert state["rounds"][0]["mlflow_run_id"] is not None
    assert state["target"] is None
    from mlflow import MlflowClient

    client = MlflowClient(site.mlflow)
    experiment = client.get_experiment_by_name(campaign)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("campaign", "FINISHED"),
        ("round 001", "FINISHED"),
    ]
    for run in site.ask("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}):
        raise AssertionError(f"{run['name']} is still shown as running")


def start_and_wait_for_training(site: Site, slow: dict[str, Any], campaign: str) -> str:
    """Start a campaign on the page; return its run once it has a checkpoint."""
    run = site.start("campaign", what={**slow, "campaign": campaign})
    site.wait_for_training(campaign)
    return run


def engines(site: Site, *names: str) -> list[int]:
    """Return the processes whose command line has one of the names."""
    return [one.pid for one in site.processes() if any(name in one.cmdline() for name in names)]


def test_training_that_outlives_prefects_server_ends_well_and_no_second_one_begins_beside_it(
    site: Site, slow: dict[str, Any]
) -> None:
    """It was marked as crashed, its place in the pool was free, and two trainings met on one GPU."""
    supervisord = Supervisord(site.runs / ".services")
    run = site.start("campaign", what={**slow, "campaign": "outlives"}, other=["training.epochs=600"])
    site.wait_for_training("outlives")
    queued = site.start("campaign", what={**slow, "campaign": "queued"})
    supervisord._control("stop", "prefect")
    time.sleep(AWAY_SECONDS)
    supervisord._control("start", "prefect")
    wait_until_up(f"{site.prefect}/api/health", "Prefect", log=supervisord.directory / "prefect.log")
    # Whether the automation took the run for dead meanwhile or not: it is shown as running, and stays so.
    time.sleep(SILENCE.total_seconds() + LOOK_SECONDS)
    shown = []
    for _ in range(3):
        time.sleep(LOOK_SECONDS)
        shown.append(site.state(run))
    assert [state["name"] for state in shown] == ["Running"] * 3, shown
    assert engines(site, "prefect.engine"), "the training ended with the server"
    assert not (site.runs / "queued" / "round-001").exists(), "a second training began beside it"
    (site.runs / "outlives" / "STOP").touch()
    site.wait_for(run, "Stopped", seconds=120)
    site.wait_for(queued, "Completed", seconds=300)
    check_finished(site, "queued")


def test_round_that_begins_to_wait_for_people_while_prefects_server_is_away_goes_on_once_they_have_voted(
    site: Site, slow: dict[str, Any]
) -> None:
    """It was shown as failed or crashed for good, and nothing went on when people had voted."""
    supervisord = Supervisord(site.runs / ".services")
    strike = site.place / "strike.json"
    before = strike.read_text()
    strike.write_text(json.dumps(json.loads(before) | {"pattern": "after replace asked/waiting.json *"}))
    people = ["active.budget=4", "active.judge.kind=people", "active.judge.people.overlap_share=0.0"]
    run = site.start("campaign", what={**slow, "campaign": "asked"}, other=[*people, "training.epochs=1"])
    directory = site.runs / "asked"
    wait_until((directory / "waiting.json").exists, "the round to wait", 240)
    supervisord._control("stop", "prefect")
    strike.write_text(before)
    # The process goes on after half a minute, and the server then takes its run for dead.
    time.sleep(AWAY_SECONDS)
    assert engines(site, "prefect.engine"), "the run ended, and nobody could resume it"
    supervisord._control("start", "prefect")
    wait_until_up(f"{site.prefect}/api/health", "Prefect", log=supervisord.directory / "prefect.log")
    site.wait_for(run, "Suspended", "Completed", "Failed", seconds=120)
    assert site.state(run)["name"] == "Suspended"
    wait_until(lambda: not engines(site, "prefect.engine"), "the process to end", 60)
    (task,) = (directory / "labelling").glob("*/task.json")
    items = read_json(task)["items"]
    rows = [{"prompt": each["messages"], "chosen": each["first"], "rejected": each["second"]} for each in items]
    (site.place / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "4 taken as those of anna" in site.ratchet(
        "label", "asked", "--import", str(site.place / "votes.jsonl"), "--as", "anna"
    )
    # On a busy machine the impatient automation may take it for dead, until it shows that it is not.
    site.wait_for(run, "Completed", "Failed", seconds=400)
    assert site.state(run)["name"] == "Completed", site.state(run)
    check_finished(site, "asked")


def test_training_that_outlives_mlflows_server_is_recorded_by_the_next_start(site: Site, slow: dict[str, Any]) -> None:
    supervisord = Supervisord(site.runs / ".services")
    run = start_and_wait_for_training(site, slow, "unrecorded")
    supervisord._control("stop", "mlflow")
    state = site.wait_for(run, "Completed", "Failed", seconds=300)
    assert state["name"] == "Completed"
    told = site.ratchet("status", "unrecorded")
    assert "not recorded in MLflow" in told
    assert "the next start records what is missing" in told
    supervisord._control("start", "mlflow")
    wait_until_up(f"{site.mlflow}/health", "MLflow", log=supervisord.directory / "mlflow.log")
    site.ratchet("run", slow["config_file"], "--campaign", "unrecorded", "--until", "1")
    check_finished(site, "unrecorded")


@pytest.mark.parametrize("names", [("worker",), ("worker", "prefect.engine")], ids=["worker", "worker-and-engine"])
def test_killed_worker_is_started_again_and_the_next_start_finishes(
    names: tuple[str, ...], site: Site, slow: dict[str, Any]
) -> None:
    campaign = f"killed-{len(names)}"
    run = start_and_wait_for_training(site, slow, campaign)
    pids = engines(site, *names)
    assert len(pids) >= len(names)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    state = site.wait_for(run, "Crashed", "Completed", seconds=240)
    if "prefect.engine" in names:
        assert "its process is gone" in state["message"]
    site.wait_for(site.start("campaign", what={**slow, "campaign": campaign}), "Completed", "Skipped", seconds=400)
    wait_until(lambda: finished(site, campaign), "the round to be finished", 300)
    check_finished(site, campaign)


def test_cancel_while_a_checkpoint_is_saved_leaves_the_one_before(site: Site, slow: dict[str, Any]) -> None:
    run = start_and_wait_for_training(site, slow, "cancelled")
    checkpoints = site.runs / "cancelled" / "round-001" / "checkpoints"
    wait_until(lambda: "HASHES.json" in str(list(checkpoints.glob("*/.unfinished/.*"))), "a half checkpoint", 120)
    cancelling = {"state": {"type": "CANCELLING"}, "force": False}
    site.ask(f"/flow_runs/{run}/set_state", cancelling)
    site.wait_for(run, "Cancelled", seconds=60)
    assert not engines(site, "prefect.engine")
    assert [path.name for path in checkpoints.glob("*/step-*")] == ["step-000010"]
    (site.place / "strike.json").write_text((site.place / "strike.json").read_text().replace('"hold"', '"none"'))
    site.wait_for(site.start("campaign", what={**slow, "campaign": "cancelled"}), "Completed", seconds=400)
    assert read_json(checkpoints.parent / "dpo_train" / "train.json")["resumed_from_step"] == 10
    check_finished(site, "cancelled")


def finished(site: Site, campaign: str) -> bool:
    """Return whether a campaign has ended its round."""
    path = site.runs / campaign / "campaign.json"
    return path.exists() and bool(read_json(path)["rounds"]) and read_json(path)["target"] is None
