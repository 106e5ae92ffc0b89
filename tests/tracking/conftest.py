"""A small campaign directory with every file that a finished round leaves, and a SQLite store that is already migrated."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# Read when mlflow is imported, which the test module does.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from components.artifacts import digest, publishing, write_json, write_table
from components.config import CampaignConfig, JudgeConfig
from components.records import Interval, JudgeRef, RoundRecord

NUM_STEPS = 5
Build = Callable[..., tuple[Path, RoundRecord]]


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making one takes seconds, copying it does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


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
    """Writes one round of a campaign and adds it to campaign.json, as the flow does once the round is over."""

    def write(number: int, *, promoted: bool = True, weights: str = "w", campaign: str = "demo", in_campaign_json: bool = True) -> tuple[Path, RoundRecord]:
        return build_round(runs / campaign, number, promoted=promoted, weights=weights, in_campaign_json=in_campaign_json)

    return write


def build_round(campaign_dir: Path, number: int, *, promoted: bool, weights: str, in_campaign_json: bool) -> tuple[Path, RoundRecord]:
    campaign_dir.mkdir(exist_ok=True)
    if not (campaign_dir / "round-000").exists():
        _build_start(campaign_dir / "round-000")
    policy = digest(f"{weights}{number}")
    _build_stages(campaign_dir / f"round-{number:03d}", number, promoted=promoted, policy=policy)
    record = _record(campaign_dir, number, promoted=promoted, policy=policy)
    if in_campaign_json:
        path = campaign_dir / "campaign.json"
        rounds = json.loads(path.read_text())["rounds"] if path.exists() else []
        write_json(path, {"campaign": campaign_dir.name, "target": number, "rounds": [*rounds, record.model_dump(mode="json")]})
    return campaign_dir, record


def _interval(value: float, n: int = 256) -> Interval:
    return Interval(value=value, low=value - 0.04, high=value + 0.04, n=n)


def _record(campaign_dir: Path, number: int, *, promoted: bool, policy: str) -> RoundRecord:
    return RoundRecord(
        round=number,
        promoted=promoted,
        reasons=() if promoted else ("win rate 0.47 [0.43, 0.51] against the champion: its lower bound is not above 0.5",),
        num_pairs=90 + number,
        win_rate_vs_champion=_interval(0.74 if promoted else 0.47),
        win_rate_vs_start=_interval(0.7 + 0.05 * number),
        kl_to_start=4.5 * number,
        mean_tokens=21.5 + number,
        mean_reward=0.9 + 0.6 * number,
        seconds={"generate_responses": 3.5, "collect_preferences": 0.2, "validate_data": 0.1, "dpo_train": 4.0, "evaluate": 2.0, "promote": 0.01},
        policy_digest=policy,
        reference_digest=digest("start"),
    )


def _build_start(directory: Path) -> None:
    with publishing(directory / "start", stage="start", version=1, key="k") as work:
        for name, rows in {"train_prompts": 8, "held_out_prompts": 4}.items():
            prompts = [{"prompt_id": f"{name}-{row}", "messages": json.dumps([{"role": "user", "content": f"hello {row}"}])} for row in range(rows)]
            write_table(work.path / f"{name}.parquet", pd.DataFrame(prompts))
        judge = JudgeRef(config=JudgeConfig(), digest=digest("rule"))
        write_json(work.path / "start.json", {"judge": judge.model_dump(mode="json"), "evaluation_judge": judge.model_dump(mode="json")})


def _build_stages(directory: Path, number: int, *, promoted: bool, policy: str) -> None:
    with publishing(directory / "generate_responses", stage="generate_responses", version=1, key="k") as work:
        write_table(work.path / "responses.parquet", pd.DataFrame({"prompt_id": ["a"], "sample_id": [0], "text": ["sorry"], "token_ids": [[1, 2]]}))
    with publishing(directory / "collect_preferences", stage="collect_preferences", version=1, key="k") as work:
        counts = {"prompts": 100, "responses": 400, "verdicts": 400, "invalid_verdicts": 2, "pairs": 90, "ties": 6, "below_margin": 3, "no_verdict": 1}
        write_json(work.path / "collect.json", {**counts, "mean_score": 1.1})
    with publishing(directory / "validate_data", stage="validate_data", version=1, key="k") as work:
        pairs = pd.DataFrame({"pair_id": ["p1", "p2"], "prompt": ["[]", "[]"], "chosen": [f"good {number}", "fine"], "rejected": ["bad", "worse"], "p": [1.0, 0.9], "origin_round": [number, number]})
        write_table(work.path / "train.parquet", pairs)
        write_table(work.path / "eval.parquet", pairs.head(1))
        write_table(work.path / "quarantine.parquet", pairs.head(0))
        write_json(work.path / "validation.json", {"received": 90, "replayed": 0, "train": 80, "eval": 8, "quarantined": 2, "reasons": {"duplicate": 2}, "quarantine_share": 0.022})
    with publishing(directory / "dpo_train", stage="dpo_train", version=1, key="k") as work:
        _write_curves(work.path / "metrics.jsonl", number)
        evaluated = {"loss": 0.41, "rewards/accuracies": 0.875, "rewards/margins": 0.6, "num_pairs": 8}
        write_json(work.path / "train.json", {"policy_digest": policy, "num_pairs": 80, "num_steps": NUM_STEPS, "eval": evaluated})
        (work.path / "model").mkdir()
        (work.path / "model" / "config.json").write_text(json.dumps({"round": number}))
        (work.path / "model" / "model.safetensors").write_bytes(policy.encode())
    with publishing(directory / "evaluate", stage="evaluate", version=1, key="k") as work:
        _write_evaluation(work.path, number)
    with publishing(directory / "promote", stage="promote", version=1, key="k") as work:
        write_json(work.path / "decision.json", {"promoted": promoted, "reasons": []})


def _write_curves(path: Path, number: int) -> None:
    now = time.time()
    lines = []
    for step in range(1, NUM_STEPS + 1):
        loss = 0.693 * 0.9 ** (step - 1)
        row = {"step": step, "epoch": step / NUM_STEPS, "loss": loss, "learning_rate": 1e-4, "grad_norm": 1.5, "rewards/chosen": 0.1 * step}
        row |= {"rewards/rejected": -0.1 * step, "rewards/margins": 0.2 * step, "rewards/accuracies": 0.6, "logps/chosen": -20.0 - number}
        lines.append(json.dumps(row | {"logps/rejected": -30.0, "pairs_per_second": 20.0, "tokens_per_second": 900.0, "time": now + step}))
    path.write_text("\n".join(lines) + "\n")


def _write_evaluation(directory: Path, number: int) -> None:
    policies = {"start": 0.9, "champion": 1.2, "challenger": 0.9 + 0.6 * number}
    evaluation = {
        "num_prompts": 256,
        "win_rate_vs_champion": _interval(0.74).model_dump(),
        "win_rate_vs_start": _interval(0.8).model_dump(),
        "mean_reward": policies,
        "kl_to_start": 4.5 * number,
        "kl_to_start_interval": _interval(4.5 * number).model_dump(),
        "mean_tokens": {"start": 20.0, "champion": 21.0, "challenger": 22.0},
        "empty_share": {"start": 0.0, "champion": 0.0, "challenger": 0.01},
        "unfinished_share": {"start": 0.02, "champion": 0.01, "challenger": 0.0},
        "reward_accuracy": 0.875,
        "reward_margin": 0.6,
        "invalid_share": 0.0,
    }
    write_json(directory / "evaluation.json", evaluation)
    samples = {"prompt_id": ["h0", "h1"], "prompt": ["Where is order 12?", "It broke."], "start": ["hm", "no"], "champion": ["on its way", "sorry"]}
    samples |= {"challenger": ["Order 12 is on its way.", "Sorry! A new one is coming."], "reward_challenger": [2.0, 2.5], "outcome_vs_start": [1.0, 1.0]}
    write_table(directory / "samples.parquet", pd.DataFrame(samples))
    (directory / "plots").mkdir()
    (directory / "plots" / "win_rate.png").write_bytes(b"\x89PNG\r\n\x1a\n")
