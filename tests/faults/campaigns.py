"""A campaign in a folder of its own, run by the command line as a user would, struck at will, and compared.

The faults themselves are in the tests beside this file; `strike/sitecustomize.py` strikes a process from within.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

WHOLE = os.environ.get("RATCHET_FAULTS") == "all"
"""Whether every fault of each kind is tried, as `make test-faults` does; else a sample of each kind."""
NAME = "struck"
STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")
SAME_BYTES = (
    "generate_responses/responses.parquet",
    "collect_preferences/preferences.parquet",
    "validate_data/train.parquet",
    "dpo_train/model/model.safetensors",
    "evaluate/evaluation.json",
    "promote/decision.json",
)
CHECKOUT = Path(__file__).parents[2]
STRIKE = Path(__file__).parent / "strike"
PATIENCE = 280


class Ended(NamedTuple):
    """How a start ended, and what it said."""

    code: int
    said: str

    @property
    def lines(self) -> list[str]:
        """What the command told the user of the end, without its notes."""
        lines = [line for line in self.said.splitlines() if line.startswith("ratchet: ")]
        return [line for line in lines if not line.startswith("ratchet: note: ")]

    def told(self, code: int, *parts: str) -> str:
        """Check that the start ended with this code and said one line with these parts, and return the line."""
        assert self.code == code, self.said
        assert "Traceback" not in self.said, self.said
        assert len(self.lines) == 1, self.said
        for part in parts:
            assert part in self.lines[0], self.lines
        return self.lines[0]

    def went_well(self) -> None:
        """Check that the start ended well and said nothing of an error."""
        assert self.code == 0, self.said
        assert "Traceback" not in self.said, self.said


class Campaign:
    """A campaign in its own folder; `runs` may lie on another disk."""

    def __init__(
        self, place: Path, model: Path, *, rounds: int = 1, runs: Path | None = None, name: str = NAME
    ) -> None:
        self.place, self.model, self.rounds, self.name = place, model, rounds, name
        self.runs = place / "runs" if runs is None else runs
        self.directory = self.runs / name
        self.prefect = place / "prefect"
        self.environment: dict[str, str] = {}
        place.mkdir(exist_ok=True)
        settings: dict[str, Any] = {
            "campaign": name,
            "num_rounds": rounds,
            "policy": {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40},
            "prompts": {"per_round": 48, "num_held_out": 64},
            "generation": {"batch_size": 64},
            "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
            "training": {
                "learning_rate": 3e-4,
                "epochs": 2,
                "pairs_per_step": 4,
                "micro_batch_pairs": 4,
                "checkpoint_every": 6,
            },
            "gate": {"max_unfinished_increase": 1.0},
        }
        (place / "campaign.yaml").write_text(yaml.safe_dump(settings))

    def start(
        self,
        *,
        action: str = "none",
        at: str = "",
        points: Sequence[str] = (),
        before: Sequence[str] = (),
        log: str = "log.txt",
    ) -> subprocess.Popen[bytes]:
        """Start the campaign.

        Args:
            action: What happens at the first of the points that is reached: kill, term, fill, or none.
            at: Pattern of points, see strike/sitecustomize.py.
            points: Names of points.
            before: Command that starts the command.
            log: File of what it says.
        """
        strike = self.place / "strike.json"
        log_of_points = str(self.place / "points.txt")
        settings = {"runs": str(self.runs), "action": action, "points": points, "pattern": at, "log": log_of_points}
        strike.write_text(json.dumps(settings))
        Path(log_of_points).unlink(missing_ok=True)
        environment = {
            **os.environ,
            "RATCHET_RUNS": str(self.runs),
            "RATCHET_STRIKE": str(strike),
            "PREFECT_HOME": str(self.prefect),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(STRIKE), os.environ.get("PYTHONPATH", "")))),
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        if "PREFECT_API_URL" not in self.environment:
            environment.pop("PREFECT_API_URL", None)
        last = str(self.rounds)
        command = [
            *before,
            sys.executable,
            "-m",
            "flows.cli",
            "run",
            str(self.place / "campaign.yaml"),
            "--until",
            last,
        ]
        with (self.place / log).open("wb") as output:
            return subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=CHECKOUT)

    def end(self, child: subprocess.Popen[bytes]) -> Ended:
        """Wait until a start has ended, with all that it started."""
        code = child.wait(timeout=PATIENCE)
        self.wait_for_processes()
        return Ended(code, self.log())

    def run(self, **options: Any) -> Ended:
        """Start the campaign, wait for its end, and return how it ended."""
        return self.end(self.start(**options))

    def finish(self) -> float:
        """Run the campaign to its end, and return the seconds that it took."""
        began = time.monotonic()
        self.run().went_well()
        return time.monotonic() - began

    def log(self) -> str:
        """Return what the latest start said."""
        return (self.place / "log.txt").read_text(errors="replace")

    def points(self) -> list[str]:
        """Return the points that the latest start passed."""
        path = self.place / "points.txt"
        return list(dict.fromkeys(path.read_text().splitlines())) if path.exists() else []

    def wait_for(self, pattern: str, child: subprocess.Popen[bytes]) -> None:
        """Wait until a file appears in the campaign's directory."""
        deadline = time.monotonic() + PATIENCE
        while not list(self.directory.glob(pattern)):
            assert child.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def kill_all(self, child: subprocess.Popen[bytes]) -> None:
        """Kill the process and all that it started, as a lost machine would."""
        parent = psutil.Process(child.pid)  # a zombie still has its number until it is waited for
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.wait()
        self.wait_for_processes()

    def wait_for_processes(self) -> None:
        """Wait until no process of the campaign is left; fail if one stays."""
        deadline = time.monotonic() + 15
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []

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
        """Return the content of campaign.json."""
        return dict(json.loads((self.directory / "campaign.json").read_text()))

    def copy(self, place: Path) -> "Campaign":
        """Return a copy of the whole campaign in another folder, to be struck there."""
        copied = Campaign(place, self.model, rounds=self.rounds)
        shutil.copytree(self.runs, copied.runs, symlinks=True)
        shutil.copytree(self.prefect, copied.prefect)
        assert not (copied.runs / "mlflow.db").exists(), "MLflow keeps absolute paths of its files"
        return copied


def check_same(campaign: Campaign, whole: Campaign) -> None:
    """Check that the bytes are the undisturbed campaign's, that no process is left and every record exists once."""
    assert campaign.processes() == []
    for round in range(1, campaign.rounds + 1):
        for name in SAME_BYTES:
            path = f"round-{round:03d}/{name}"
            assert (campaign.directory / path).read_bytes() == (whole.directory / path).read_bytes(), path
    leftovers = [str(path) for path in campaign.directory.rglob(".*") if path.is_dir() and path.name != ".serving"]
    assert leftovers == []
    check_records(campaign, whole)


def check_records(campaign: Campaign, whole: Campaign) -> None:
    """Check that campaign.json, MLflow and Prefect hold every round once, finished."""
    rounds = list(range(1, campaign.rounds + 1))
    state, expected = campaign.state(), whole.state()
    assert state["champion"] == expected["champion"]
    assert state["target"] is None
    assert [record["round"] for record in state["rounds"]] == rounds
    for record, other in zip(state["rounds"], expected["rounds"], strict=True):
        volatile = ("seconds", "mlflow_run_id", "git_sha")
        assert {name: record[name] for name in record if name not in volatile} == {
            name: other[name] for name in other if name not in volatile
        }
        assert set(record["seconds"]) == set(STAGES)
    check_mlflow(campaign, whole)
    check_prefect(campaign)


def check_mlflow(campaign: Campaign, whole: Campaign) -> None:
    """Check that MLflow has each round once, finished, with as many points as the undisturbed campaign's."""
    from mlflow import MlflowClient

    rounds = range(1, campaign.rounds + 1)
    client = MlflowClient(f"sqlite:///{campaign.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(campaign.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["campaign", *(f"round {round:03d}" for round in rounds)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    ids = {record["mlflow_run_id"] for record in campaign.state()["rounds"]}
    assert {run.info.run_id for run in runs if run.info.run_name != "campaign"} == ids
    assert len(client.search_model_versions(f"name = '{campaign.name}'")) == campaign.rounds
    assert count_points(campaign) == count_points(whole)


def count_points(campaign: Campaign) -> dict[tuple[str, str], int]:
    """Return how many points MLflow has of each curve; those of the machine depend on the seconds that it took."""
    with contextlib.closing(sqlite3.connect(campaign.runs / "mlflow.db")) as database:
        rows = database.execute(
            "SELECT runs.name, metrics.key, count(*) FROM metrics JOIN runs USING (run_uuid) "
            "JOIN experiments USING (experiment_id) "
            "WHERE metrics.key NOT LIKE 'system/%' AND experiments.name = ? GROUP BY 1, 2",
            (campaign.name,),
        )
        return {(name, key): number for name, key, number in rows}


def check_prefect(campaign: Campaign) -> None:
    """Check that, after a later start, Prefect's database shows no run of a killed process as running."""
    with contextlib.closing(sqlite3.connect(campaign.prefect / "prefect.db")) as database:
        for table in ("flow_run", "task_run"):
            states = {row[0] for row in database.execute(f"SELECT state_type FROM {table}")}
            assert states <= {"COMPLETED", "CRASHED", "FAILED", "CANCELLED"}, (table, states)


KILLED = -signal.SIGKILL
