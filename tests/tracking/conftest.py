"""A small campaign directory with all files of a finished round, a migrated SQLite store, and readers of both."""

import contextlib
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pandas as pd
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported

from mlflow import MlflowClient
from mlflow.entities import Run

from components.artifacts import digest, publishing, read_json, write_json, write_table
from components.campaign.files import STAGES
from components.campaign.state import Champion, State, read_state, with_round
from components.config import CampaignConfig, JudgeConfig, TrackingConfig
from components.records import Interval, JudgeRef, RoundRecord
from components.runtime.children import server_process
from components.runtime.ports import free_port

NUM_STEPS, NUM_SAMPLES = 5, 3
GIT_SHA = "0123456789abcdef0123456789abcdef01234567"
# One curve of each kind in full, since one look at every point of every metric takes longer than writing them.
POINTS = (
    "loss",
    "logps/chosen",
    "win_rate_vs_start",
    "promoted",
    "seconds/dpo_train",
    "system/cpu_utilization_percentage",
)
WRITES = (
    "create_experiment",
    "create_run",
    "update_run",
    "log_batch",
    "log_inputs",
    "log_artifacts",
    "log_outputs",
    "create_logged_model",
    "log_model_artifact",
    "log_model_artifacts",
    "finalize_logged_model",
    "set_logged_model_tags",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_tag",
    "set_experiment_tag",
    "set_terminated",
)
Build = Callable[..., tuple[Path, RoundRecord]]


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making one takes seconds, copying it does not."""
    from components.tracking import ensure_store

    directory = tmp_path_factory.mktemp("mlflow")
    (directory / ".mlflow.db.making.tmp").write_text("what a killed process left")
    ensure_store(directory)
    assert [path.name for path in directory.iterdir()] == ["mlflow.db"]
    return directory / "mlflow.db"


def serve_mlflow(*options: str, **process: Any) -> contextlib.AbstractContextManager[int]:
    """Run a real MLflow server within a block, which gets its port once it answers."""

    @contextlib.contextmanager
    def serving() -> Iterator[int]:
        port = free_port()
        address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *options, *address]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **process.pop("env", {})}
        with server_process(command, env=environment, **process) as child:
            deadline = time.monotonic() + 280
            while not _answers(port):
                assert child.poll() is None, "the MLflow server ended"
                assert time.monotonic() < deadline, "the MLflow server does not answer"
                time.sleep(0.5)
            yield port

    return serving()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def server_port(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Iterator[int]:
    """A real MLflow server of its own store, which keeps the artifacts as well."""
    place = tmp_path_factory.mktemp("server")
    shutil.copy(migrated_store, place / "mlflow.db")
    store = ["--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}"]
    with serve_mlflow(*store, "--artifacts-destination", str(place / "artifacts")) as port:
        yield port


@pytest.fixture
def runs(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs directory with an empty store and no campaign."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    directory = tmp_path / "runs"
    directory.mkdir()
    shutil.copy(migrated_store, directory / "mlflow.db")
    return directory


@pytest.fixture
def config() -> dict[str, Any]:
    return CampaignConfig(campaign="demo").model_dump(mode="json")


@pytest.fixture
def build(runs: Path) -> Build:
    """Write one round of the campaign `demo` and add it to campaign.json, as the flow does once the round is over."""

    def write(number: int, *, promoted: bool = True, weights: str = "weights") -> tuple[Path, RoundRecord]:
        directory = runs / "demo"
        directory.mkdir(exist_ok=True)
        if not (directory / "round-000").exists():
            _write_start(directory / "round-000")
        record = _record(number, promoted=promoted, policy=digest([weights, number]))
        _write_data(directory / f"round-{number:03d}", number)
        _write_training(directory / f"round-{number:03d}", record.policy_digest)
        _write_evaluation(directory / f"round-{number:03d}", record)
        path = directory / "campaign.json"
        start = Champion(round=0, digest=digest("start"))
        state = read_state(directory) or State(campaign="demo", id=uuid4().hex, champion=start)
        write_json(path, with_round(state, record).model_copy(update={"target": number}))
        return directory, record

    return write


@pytest.fixture
def record(build: Build, config: dict[str, Any]) -> Callable[..., Any]:
    """Build a round and record it."""
    from components.tracking import record_round

    def build_and_record(number: int, **kwargs: Any) -> Any:
        directory, built = build(number, **kwargs)
        return record_round(directory, built, config=config, tracking=TrackingConfig())

    return build_and_record


@pytest.fixture
def record_again(runs: Path, config: dict[str, Any]) -> Callable[..., Any]:
    """Record a round of campaign.json, as a retry or a later start does."""
    from components.tracking import record_round

    def again(number: int, campaign: str = "demo") -> Any:
        entry = next(
            entry for entry in read_json(runs / campaign / "campaign.json")["rounds"] if entry["round"] == number
        )
        return record_round(
            runs / campaign, RoundRecord.model_validate(entry), config=config, tracking=TrackingConfig()
        )

    return again


class Store:
    """What MLflow has, for tests to look at."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, MlflowClient(uri)

    def runs(self, campaign: str = "demo") -> dict[str, Run]:
        experiment = self.client.get_experiment_by_name(campaign)
        assert experiment is not None
        found = list(self.client.search_runs([experiment.experiment_id]))
        assert len({run.info.run_name for run in found}) == len(found), "two runs have the same name"
        return {run.info.run_name: run for run in found}

    def running(self, campaign: str = "demo") -> list[str]:
        return [name for name, run in self.runs(campaign).items() if run.info.status == "RUNNING"]

    def curve(self, run: Run, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key)]

    def aliases(self) -> dict[str, int]:
        return {alias: int(version) for alias, version in self.client.get_registered_model("demo").aliases.items()}

    def files(self, run: Run) -> list[str]:
        waiting, found = [""], []
        while waiting:
            for entry in self.client.list_artifacts(run.info.run_id, waiting.pop()):
                (waiting if entry.is_dir else found).append(entry.path)
        return sorted(found)

    def model_files(self, model_id: str) -> set[str]:
        return {entry.path for entry in self.client.list_logged_model_artifacts(model_id)}

    def everything(self, campaign: str = "demo") -> str:
        """All that MLflow has of a campaign, without its name, ids and the times of writing."""
        state: dict[str, Any] = {}
        for name, run in self.runs(campaign).items():
            history = [point for key in POINTS for point in self.client.get_metric_history(run.info.run_id, key)]
            state[name] = {
                "info": (run.info.status, run.info.start_time, run.info.end_time),
                "params": run.data.params,
                "metrics": run.data.metrics,
                "tags": run.data.tags,
                "points": sorted((point.key, point.step, point.value, point.timestamp) for point in history),
                "inputs": sorted(
                    f"{item.dataset.name} {item.dataset.digest} {item.tags[0].value}"
                    for item in run.inputs.dataset_inputs
                ),
                "outputs": len(run.outputs.model_outputs),
                "files": self.files(run),
            }
        models = self.client.search_logged_models([self.client.get_experiment_by_name(campaign).experiment_id])
        state["models"] = [
            (model.name, str(model.status), model.tags, sorted(self.model_files(model.model_id))) for model in models
        ]
        versions = self.client.search_model_versions(f"name = '{campaign}'")
        state["versions"] = [
            (version.version, version.tags, version.description, version.aliases) for version in versions
        ]
        text = json.dumps(state, indent=1, sort_keys=True).replace(campaign, "demo")
        return re.sub(r"m-[0-9a-f]{32}", "m-id", text)


@pytest.fixture
def store(runs: Path) -> Store:
    """The SQLite store beside the runs."""
    return Store(f"sqlite:///{runs / 'mlflow.db'}")


@pytest.fixture
def see() -> Callable[[str], Store]:
    """Eyes for the store at an address."""
    return Store


class Killed(BaseException):
    """Ends the process for the test: no handler of the code under test may see it as an error that it can answer."""


@pytest.fixture
def killed_after_write(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Lets the given number of the client's writes happen in a block, and then kills it.

    Tells whether that happened.
    """

    @contextlib.contextmanager
    def killing(number: int) -> Iterator[SimpleNamespace]:
        done, told = itertools.count(1), SimpleNamespace(happened=False)

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                if next(done) >= number:
                    raise Killed
                return result

            return wrapped

        with monkeypatch.context() as patch:
            for name in WRITES:
                patch.setattr(MlflowClient, name, wrap(getattr(MlflowClient, name)))
            try:
                yield told
            except Killed:
                told.happened = True

    return killing


def _interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.0625, high=value + 0.0625, n=256)


def _record(number: int, *, promoted: bool, policy: str) -> RoundRecord:
    return RoundRecord(
        round=number,
        promoted=promoted,
        reasons=() if promoted else ("the win rate's lower bound 0.41 is not above 0.5",),
        num_pairs=80 + number,
        win_rate_vs_champion=_interval(0.75 if promoted else 0.46875),
        win_rate_vs_start=_interval(0.6875 + number / 16),
        kl_to_start=4.5 * number,
        mean_tokens=21.5 + number,
        mean_reward=0.875 + number / 2,
        seconds=dict(zip(STAGES, (3.5, 0.25, 0.125, 4.0, 2.0, 0.125), strict=True)),
        policy_digest=policy,
        reference_digest=digest("start"),
        git_sha=GIT_SHA,
    )


def _write_start(directory: Path) -> None:
    judge = JudgeRef(config=JudgeConfig(), digest=digest("rule")).model_dump(mode="json")
    with publishing(directory / "start", stage="start", version=1, key="k") as work:
        for name in ("train_prompts", "held_out_prompts"):
            prompts = [
                {"prompt_id": f"{name}-{row}", "messages": json.dumps([{"role": "user", "content": f"hello {row}"}])}
                for row in range(4)
            ]
            write_table(work.path / f"{name}.parquet", pd.DataFrame(prompts))
        model = {"round": 0, "base": "model", "base_digest": digest("start"), "digest": digest("start")}
        write_json(work.path / "start.json", {"model": model, "judge": judge, "evaluation_judge": judge})


JUDGE_HEALTH: dict[str, Any] = {
    "position_consistency": {"value": 0.75, "low": 0.6875, "high": 0.8125, "n": 100},
    "repetition_stability": None,
    "tie_share": {"value": 0.25, "low": 0.1875, "high": 0.3125, "n": 100},
    "invalid_share": 0.005,
    "length_preference": {"value": 0.625, "low": 0.5625, "high": 0.6875, "n": 90},
    "mean_length_difference": -3.5,
    "parts": {
        "llm:org/small#2": {
            "agreement": {"value": 0.875, "low": 0.8125, "high": 0.9375, "n": 80},
            "position_consistency": None,
            "repetition_stability": None,
        }
    },
}

VIOLATIONS = {
    "be brief": {"violated": 3, "checked": 12, "invalid": 1},
    "be kind": {"violated": 0, "checked": 0, "invalid": 13},
}


def _write_data(directory: Path, number: int) -> None:
    with publishing(directory / "generate_responses", stage="generate_responses", version=1, key="k") as work:
        write_table(
            work.path / "responses.parquet", pd.DataFrame({"prompt_id": ["a"], "sample_id": [0], "text": ["sorry"]})
        )
        sampling = {"way": "copied prompts", "reason": "it has layers with a sliding window"}
        diversity = {"distinct_1": 0.125, "distinct_2": 0.375, "equal_samples": 0.0625, "all_equal": None}
        write_json(work.path / "generate.json", {"sampling": sampling, "diversity": diversity})
    counts = {
        "prompts": 100,
        "responses": 400,
        "verdicts": 400,
        "invalid_verdicts": 2,
        "pairs": 90,
        "ties": 6,
        "below_margin": 3,
    }
    with publishing(directory / "collect_preferences", stage="collect_preferences", version=1, key="k") as work:
        counts |= {
            "no_verdict": 1,
            "mean_score": 1.125,
            "judge_health": JUDGE_HEALTH,
            "violations": VIOLATIONS,
            "functions": {"my.exact": {"mean": 0.375, "scored": 8, "not_applicable": 2, "failed": 1}},
            "active": {"asked": 40, "agreed": 28, "flipped": 9, "ties": 3},
            "revisions": {"revised": 70, "empty": 2},
        }
        write_json(work.path / "collect.json", counts)
    texts = {"chosen": [f"good {number}", "fine"], "rejected": ["bad", "worse"]}
    prompts = [json.dumps([{"role": "user", "content": f"hello {name}"}]) for name in ("there", "again")]
    pairs = pd.DataFrame({"pair_id": ["p1", "p2"], "prompt": prompts, **texts, "p": [1.0, 0.9]})
    quarantined = pairs.assign(
        reason=["chosen is empty; tag is empty", "duplicate of another pair"], origin_round=number
    )
    counts = {"received": 90, "replayed": 0, "train": 80, "eval": 8, "quarantined": 2, "quarantine_share": 0.0222}
    with publishing(directory / "validate_data", stage="validate_data", version=1, key="k") as work:
        write_table(work.path / "train.parquet", pairs)
        write_table(work.path / "eval.parquet", pairs.head(1))
        write_table(work.path / "quarantine.parquet", quarantined)
        reasons = {"chosen is empty": 1, "duplicate of another pair": 1, "tag is empty": 1}
        checks = [
            {"name": "length_bias", "verdict": "warn", "share": 0.75},
            {"name": "secrets", "verdict": "pass", "share": 0.0},
            {"name": "tag_balance", "verdict": "skipped", "share": None},
        ]
        write_json(work.path / "validation.json", {**counts, "reasons": reasons, "checks": checks})


def _write_training(directory: Path, policy: str) -> None:
    evaluated = {"loss": 0.40625, "rewards/accuracies": 0.875, "rewards/margins": 0.625, "num_pairs": 8}
    with publishing(directory / "dpo_train", stage="dpo_train", version=1, key="k") as work:
        (work.path / "metrics.jsonl").write_text(
            "".join(json.dumps(_step(step)) + "\n" for step in range(1, NUM_STEPS + 1))
        )
        counts = {"num_pairs": 80, "num_steps": NUM_STEPS, "dtype": "float32"}
        write_json(
            work.path / "train.json",
            {"policy_digest": policy, "start_digest": digest("start"), **counts, "eval": evaluated},
        )
        (work.path / "system.jsonl").write_text(
            "".join(json.dumps(_sample(number)) + "\n" for number in range(NUM_SAMPLES))
        )
        (work.path / "model").mkdir()
        (work.path / "model" / "config.json").write_text("{}")
        (work.path / "model" / "model.safetensors").write_bytes(policy.encode())


def _step(step: int) -> dict[str, float]:
    rewards = {
        "rewards/chosen": step / 8,
        "rewards/rejected": -step / 8,
        "rewards/margins": step / 4,
        "rewards/accuracies": 0.625,
    }
    logps = {
        "logps/chosen": -20.0 - step,
        "logps/rejected": -30.0 - step,
        "pairs_per_second": 20.0,
        "tokens_per_second": 900.0,
    }
    return {
        "step": step,
        "epoch": step / 4,
        "loss": 1 / (1 + step),
        "learning_rate": 1e-4,
        "grad_norm": 1.5,
        **rewards,
        **logps,
        "time": 1.8e9 + step,
    }


def _sample(number: int) -> dict[str, float]:
    cpu = {"cpu_utilization_percentage": 40.0 + number} if number else {}
    return {
        "time": 1.8e9 + 2 * number,
        "seconds": 2.0 * number,
        "rank": 0,
        **cpu,
        "process_memory_usage_megabytes": 512.0 + number,
    }


def _write_evaluation(directory: Path, record: RoundRecord) -> None:
    policies = ("start", "champion", "challenger")
    evaluation = {
        "num_prompts": 256,
        "win_rate_vs_champion": record.win_rate_vs_champion.model_dump(),
        "win_rate_vs_start": record.win_rate_vs_start.model_dump(),
        "mean_reward": dict(zip(policies, (0.875, 1.25, record.mean_reward), strict=True)),
        "kl_to_start": record.kl_to_start,
        "kl_to_start_interval": _interval(record.kl_to_start).model_dump(),
        "mean_tokens": dict(zip(policies, (20.0, 21.0, record.mean_tokens), strict=True)),
        "empty_share": dict(zip(policies, (0.0, 0.0, 0.0625), strict=True)),
        "unfinished_share": dict(zip(policies, (0.03125, 0.0, 0.125), strict=True)),
        "reward_accuracy": 0.875,
        "reward_margin": 0.625,
        "invalid_share": 0.0,
    }
    samples = {"prompt_id": ["h0", "h1"], "prompt": ["Where is order 12?", "It broke."], "start": ["hm", "no"]}
    samples |= {
        "champion": ["on its way", "sorry"],
        "challenger": ["Order 12 is on its way.", "Sorry! A new one is coming."],
    }
    with publishing(directory / "evaluate", stage="evaluate", version=1, key="k") as work:
        write_json(work.path / "evaluation.json", evaluation)
        write_table(work.path / "samples.parquet", pd.DataFrame({**samples, "outcome_vs_start": [1.0, 0.5]}))
        (work.path / "plots").mkdir()
        (work.path / "plots" / "win_rate.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with publishing(directory / "promote", stage="promote", version=1, key="k") as work:
        write_json(work.path / "decision.json", {"promoted": record.promoted, "reasons": list(record.reasons)})
