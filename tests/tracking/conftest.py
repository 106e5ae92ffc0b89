"""A small campaign directory with every file that a finished round leaves, and a SQLite store that is already migrated."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported

from components.artifacts import digest, publishing, write_json, write_table
from components.campaign import Champion, State, read_state, with_round
from components.config import CampaignConfig, JudgeConfig
from components.records import Interval, JudgeRef, RoundRecord

NUM_STEPS = 5
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
    """Writes one round of the campaign `demo` and adds it to campaign.json, as the flow does once the round is over."""

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
        state = read_state(directory) or State(campaign="demo", champion=Champion(round=0, digest=digest("start")))
        write_json(path, with_round(state, record).model_copy(update={"target": number}))
        return directory, record

    return write


def _interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.0625, high=value + 0.0625, n=256)


def _record(number: int, *, promoted: bool, policy: str) -> RoundRecord:
    stages = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")
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
        seconds=dict(zip(stages, (3.5, 0.25, 0.125, 4.0, 2.0, 0.125), strict=True)),
        policy_digest=policy,
        reference_digest=digest("start"),
    )


def _write_start(directory: Path) -> None:
    judge = JudgeRef(config=JudgeConfig(), digest=digest("rule")).model_dump(mode="json")
    with publishing(directory / "start", stage="start", version=1, key="k") as work:
        for name in ("train_prompts", "held_out_prompts"):
            prompts = [
                {"prompt_id": f"{name}-{row}", "messages": json.dumps([{"role": "user", "content": f"hello {row}"}])} for row in range(4)
            ]
            write_table(work.path / f"{name}.parquet", pd.DataFrame(prompts))
        write_json(work.path / "start.json", {"judge": judge, "evaluation_judge": judge})


def _write_data(directory: Path, number: int) -> None:
    with publishing(directory / "generate_responses", stage="generate_responses", version=1, key="k") as work:
        write_table(work.path / "responses.parquet", pd.DataFrame({"prompt_id": ["a"], "sample_id": [0], "text": ["sorry"]}))
    counts = {"prompts": 100, "responses": 400, "verdicts": 400, "invalid_verdicts": 2, "pairs": 90, "ties": 6, "below_margin": 3}
    with publishing(directory / "collect_preferences", stage="collect_preferences", version=1, key="k") as work:
        write_json(work.path / "collect.json", {**counts, "no_verdict": 1, "mean_score": 1.125})
    pairs = pd.DataFrame({"pair_id": ["p1", "p2"], "chosen": [f"good {number}", "fine"], "rejected": ["bad", "worse"], "p": [1.0, 0.9]})
    counts = {"received": 90, "replayed": 0, "train": 80, "eval": 8, "quarantined": 2, "quarantine_share": 0.0222}
    with publishing(directory / "validate_data", stage="validate_data", version=1, key="k") as work:
        write_table(work.path / "train.parquet", pairs)
        write_table(work.path / "eval.parquet", pairs.head(1))
        write_table(work.path / "quarantine.parquet", pairs.head(0))
        write_json(work.path / "validation.json", {**counts, "reasons": {"duplicate": 2}})


def _write_training(directory: Path, policy: str) -> None:
    evaluated = {"loss": 0.40625, "rewards/accuracies": 0.875, "rewards/margins": 0.625, "num_pairs": 8}
    with publishing(directory / "dpo_train", stage="dpo_train", version=1, key="k") as work:
        (work.path / "metrics.jsonl").write_text("".join(json.dumps(_step(step)) + "\n" for step in range(1, NUM_STEPS + 1)))
        write_json(work.path / "train.json", {"policy_digest": policy, "num_pairs": 80, "num_steps": NUM_STEPS, "eval": evaluated})
        (work.path / "model").mkdir()
        (work.path / "model" / "config.json").write_text("{}")
        (work.path / "model" / "model.safetensors").write_bytes(policy.encode())


def _step(step: int) -> dict[str, float]:
    rewards = {"rewards/chosen": step / 8, "rewards/rejected": -step / 8, "rewards/margins": step / 4, "rewards/accuracies": 0.625}
    logps = {"logps/chosen": -20.0 - step, "logps/rejected": -30.0 - step, "pairs_per_second": 20.0, "tokens_per_second": 900.0}
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
    samples |= {"champion": ["on its way", "sorry"], "challenger": ["Order 12 is on its way.", "Sorry! A new one is coming."]}
    with publishing(directory / "evaluate", stage="evaluate", version=1, key="k") as work:
        write_json(work.path / "evaluation.json", evaluation)
        write_table(work.path / "samples.parquet", pd.DataFrame({**samples, "outcome_vs_start": [1.0, 0.5]}))
        (work.path / "plots").mkdir()
        (work.path / "plots" / "win_rate.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with publishing(directory / "promote", stage="promote", version=1, key="k") as work:
        write_json(work.path / "decision.json", {"promoted": record.promoted, "reasons": list(record.reasons)})
