"""kill -9 of everything at a random moment.

The same command finishes the campaign, with the same bytes and nothing done twice.
"""

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

KILLS = int(os.environ.get("RATCHET_KILLS", "1"))
ROUNDS = 2
STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")
SAME_BYTES = (
    "generate_responses/responses.parquet",
    "collect_preferences/preferences.parquet",
    "validate_data/train.parquet",
    "dpo_train/model/model.safetensors",
    "evaluate/evaluation.json",
    "promote/decision.json",
)


class Campaign:
    """A campaign in its own folder, run by the command line as a user would."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.runs = place, place / "runs"
        self.directory = self.runs / "killed"
        place.mkdir()
        settings = {
            "campaign": "killed",
            "num_rounds": ROUNDS,
            "policy": {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40},
            "prompts": {"per_round": 48, "num_held_out": 64},
            "generation": {"batch_size": 64},
            "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
            "training": {
                "learning_rate": 3e-4,
                "epochs": 2,
                "pairs_per_step": 4,
                "micro_batch_pairs": 4,
                "checkpoint_every": 3,
            },
            "gate": {"max_unfinished_increase": 1.0},
        }
        (place / "campaign.yaml").write_text(yaml.safe_dump(settings))

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "RATCHET_RUNS": str(self.runs),
            "PREFECT_HOME": str(self.place / "prefect"),
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "flows.cli", "run", str(self.place / "campaign.yaml"), "--until", str(ROUNDS)]
        with (self.place / "log.txt").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])

    def finish(self) -> float:
        began = time.monotonic()
        child = self.start()
        assert child.wait(timeout=280) == 0, self.log()
        return time.monotonic() - began

    def log(self) -> str:
        return (self.place / "log.txt").read_text()[-3000:]

    def kill_all(self, child: subprocess.Popen[bytes]) -> None:
        """Kill the process and all that it started, as a lost machine would."""
        parent = psutil.Process(child.pid)  # a zombie still has its number until it is waited for
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()
        deadline = time.monotonic() + 5
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Return every process that was started for this campaign and still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RATCHET_RUNS") == str(self.runs) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def manifests(self) -> dict[str, str]:
        """Return the published stages and their manifests, which hold the seconds they took.

        A stage that ran twice has another one.
        """
        paths = self.directory.glob("round-*/[!.]*/MANIFEST.json")
        return {str(path.relative_to(self.directory)): path.read_text() for path in paths}

    def state(self) -> dict[str, Any]:
        return json.loads((self.directory / "campaign.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, starter_directory: Path) -> tuple[Campaign, float]:
    campaign = Campaign(tmp_path_factory.mktemp("kill") / "undisturbed", starter_directory)
    return campaign, campaign.finish()


@pytest.mark.timeout(3600)
def test_killed_campaign_is_finished_by_the_same_command_with_the_same_bytes(
    undisturbed: tuple[Campaign, float], tmp_path: Path, starter_directory: Path
) -> None:
    whole, seconds = undisturbed
    chance = random.Random(int(os.environ.get("RATCHET_KILL_SEED", "1")))
    kills = 0
    for number in itertools.count():
        campaign = Campaign(tmp_path / f"killed-{number}", starter_directory)
        kills += kill_until_it_finishes(campaign, seconds, chance, at_most=KILLS - kills)
        check_same(campaign, whole)
        if kills == KILLS:
            break


def kill_until_it_finishes(campaign: Campaign, seconds: float, chance: random.Random, *, at_most: int) -> int:
    """Start a campaign again and again, killing it at random moments, until a start finishes first.

    Returns how often it was killed.
    """
    done: dict[str, str] = {}
    for kills in range(at_most):
        child = campaign.start()
        try:
            assert child.wait(timeout=chance.uniform(0.1, 0.9) * seconds) == 0, campaign.log()
            return kills
        except subprocess.TimeoutExpired:
            campaign.kill_all(child)
        assert campaign.processes() == []
        published = campaign.manifests()
        assert {name: published.get(name) for name in done} == done, "a finished stage ran again"
        done = published
        print(f"{campaign.place.name}: killed with {len(done)} stages published", flush=True)
    campaign.finish()
    published = campaign.manifests()
    assert {name: published[name] for name in done} == done, "a finished stage ran again"
    return at_most


def check_same(campaign: Campaign, whole: Campaign) -> None:
    """Check that the bytes are the undisturbed campaign's, that no process is left and every record exists once."""
    assert campaign.processes() == []
    for round in range(1, ROUNDS + 1):
        for name in SAME_BYTES:
            path = f"round-{round:03d}/{name}"
            assert (campaign.directory / path).read_bytes() == (whole.directory / path).read_bytes(), path
    check_records(campaign, whole)


def check_records(campaign: Campaign, whole: Campaign) -> None:
    """Check that campaign.json, MLflow and Prefect hold every round once, finished."""
    state, expected = campaign.state(), whole.state()
    assert state["champion"] == expected["champion"]
    assert state["target"] is None
    assert [record["round"] for record in state["rounds"]] == list(range(1, ROUNDS + 1))
    for record, other in zip(state["rounds"], expected["rounds"], strict=True):
        volatile = ("seconds", "mlflow_run_id")
        assert {name: record[name] for name in record if name not in volatile} == {
            name: other[name] for name in other if name not in volatile
        }
        assert set(record["seconds"]) == set(STAGES)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{campaign.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("killed")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == [
        "campaign",
        *(f"round {round:03d}" for round in range(1, ROUNDS + 1)),
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_id for run in runs if run.info.run_name != "campaign"} == {
        record["mlflow_run_id"] for record in state["rounds"]
    }
    assert len(client.search_model_versions("name = 'killed'")) == ROUNDS
    check_prefect(campaign)


def check_prefect(campaign: Campaign) -> None:
    """Check that, after a later start, Prefect's database shows no run of a killed process as running."""
    import sqlite3

    with sqlite3.connect(campaign.place / "prefect" / "prefect.db") as database:
        for table in ("flow_run", "task_run"):
            states = {row[0] for row in database.execute(f"SELECT state_type FROM {table}")}
            assert states <= {"COMPLETED", "CRASHED", "FAILED"}, (table, states)
    database.close()
