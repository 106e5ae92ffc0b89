"""What a recorded round tells: its run, numbers, tables, files and data sets."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from components.artifacts import read_json, read_table, write_json, write_table
from components.tracking import Tracked, tracking_uri

GIT_SHA = "0123456789abcdef0123456789abcdef01234567"


def test_record_round_first_time_tells_everything_about_the_round(
    runs: Path, store: Any, record: Callable[..., Tracked]
) -> None:
    environment = dict(os.environ)
    tracked = record(1)
    assert dict(os.environ) == environment
    assert mlflow.active_run() is None
    client = store.client
    run = client.get_run(tracked.run_id)
    assert run.info.run_name == "round 001"
    assert run.info.status == "FINISHED"
    promoted_at = (runs / "demo" / "round-001" / "promote" / "MANIFEST.json").stat().st_mtime_ns // 1_000_000
    assert run.info.end_time == promoted_at
    assert run.info.start_time < promoted_at
    assert run.info.experiment_id == tracked.experiment_id
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.params["round"] == "1"
    assert run.data.params["training.beta"] == "0.1"
    assert run.data.params["policy.model"] == "builtin"
    assert run.data.params["judge.model"] == ""
    manifest = read_json(runs / "demo" / "round-001" / "validate_data" / "MANIFEST.json")
    expected = {"round": "1", "promoted": "true", "champion": "1", "git_sha": GIT_SHA, "campaign": "demo"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["data_digest"] == manifest["files"]["train.parquet"]["sha256"]
    assert run.data.tags["judge"].startswith("rule:support_reply@")
    assert "scoring" not in run.data.tags, "the round's files do not say it"
    assert len(run.data.tags["policy_digest"]) == len(run.data.tags["reference_digest"]) == 64
    experiment = client.get_experiment(tracked.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_record_round_metrics_are_the_files_numbers_at_their_steps(
    runs: Path, store: Any, record: Callable[..., Tracked]
) -> None:
    tracked = record(1)
    client = store.client
    run = client.get_run(tracked.run_id)
    assert store.curve(run, "loss") == [(step, 1 / (1 + step)) for step in range(1, 6)]
    assert store.curve(run, "rewards/margins") == [(step, step / 4) for step in range(1, 6)]
    assert [point.timestamp for point in client.get_metric_history(tracked.run_id, "loss")] == [
        (1_800_000_000 + step) * 1000 for step in range(1, 6)
    ]
    assert "time" not in run.data.metrics
    once = {
        "win_rate_vs_start": 0.75,
        "win_rate_vs_start/low": 0.6875,
        "win_rate_vs_start/high": 0.8125,
        "win_rate_vs_champion": 0.75,
        "kl_to_start": 4.5,
        "kl_to_start/low": 4.4375,
        "mean_tokens": 22.5,
        "mean_tokens/champion": 21.0,
        "mean_reward": 1.375,
        "mean_reward/start": 0.875,
        "unfinished_share": 0.125,
        "reward_accuracy": 0.875,
        "reward_margin": 0.625,
        "eval_loss": 0.40625,
        "num_pairs": 81,
        "quarantined": 2,
        "ties": 6,
        "judge/position_consistency": 0.75,
        "judge/length_preference/low": 0.5625,
        "judge/mean_length_difference": -3.5,
        "judge/llm:org_small_2/agreement": 0.875,
        "response_violations/be_brief": 0.25,
        "response_functions/my.exact": 0.375,
        "costly/asked": 40,
        "costly/flipped": 9,
        "revisions/empty": 2,
        "promoted": 1,
        "checks/warnings": 1,
        "checks/failures": 0,
        "checks/length_bias": 0.75,
        "checks/secrets": 0.0,
        "samples/distinct_2": 0.375,
        "samples/equal_samples": 0.0625,
        "seconds": 10.0,
        "seconds/dpo_train": 4.0,
    }
    assert {key: run.data.metrics[key] for key in once} == once
    unmeasured = (
        "repetition_stability",
        "be_kind",
        "all_equal",
        "unfinished_increase",
        "/distinct_2/start",
        "/tag_balance",
    )
    assert not [key for key in run.data.metrics if key.endswith(unmeasured)], "what was not measured has no point"
    peak = read_json(runs / "demo" / "round-001" / "evaluate" / "MANIFEST.json")["peak_memory_bytes"]
    assert run.data.metrics["peak_memory_mb/evaluate"] == pytest.approx(peak / 2**20, abs=1e-6)


def test_record_round_says_by_which_path_it_was_trained(
    store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    path = directory / "round-001" / "dpo_train" / "train.json"
    write_json(
        path, read_json(path) | {"scoring": {"packed": False, "reason": "LlamaForCausalLM uses eager attention"}}
    )
    tags = store.client.get_run(record_again(1).run_id).data.tags
    assert tags["scoring"] == "padded: LlamaForCausalLM uses eager attention"
    assert tags["sampling"] == "copied prompts: it has layers with a sliding window"


def test_record_round_inputs_and_files_are_the_rounds(
    runs: Path, store: Any, record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = record(1)
    client = store.client
    run = client.get_run(tracked.run_id)
    contexts = {item.tags[0].value: item.dataset for item in run.inputs.dataset_inputs}
    assert contexts.keys() == {"training", "evaluation", "held-out"}
    manifest = read_json(runs / "demo" / "round-001" / "validate_data" / "MANIFEST.json")
    assert contexts["training"].digest == manifest["files"]["train.parquet"]["sha256"][:36]
    assert json.loads(contexts["training"].profile) == {"num_rows": 2}
    expected = {
        "collect_preferences/collect.json",
        "dpo_train/MANIFEST.json",
        "dpo_train/metrics.jsonl",
        "dpo_train/train.json",
        "evaluate/evaluation.json",
        "plots/win_rate.png",
        "promote/decision.json",
        "validate_data/validation.json",
        "samples.json",
        "validation_counts.json",
    }
    paths = store.files(run)
    assert expected <= set(paths)
    assert not [path for path in paths if "model" in path], "weights belong to the registered version only"


def test_record_round_tables_are_declared_and_load_back(
    runs: Path, store: Any, record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = record(1)
    client = store.client
    declared = json.loads(client.get_run(tracked.run_id).data.tags["mlflow.loggedArtifacts"])
    names = ["samples.json", "validation_counts.json", "quarantined_pairs.json"]
    assert declared == [{"path": name, "type": "table"} for name in names]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(runs))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    samples, counts, quarantined = (
        client.load_table(tracked.experiment_id, name, run_ids=[tracked.run_id]) for name in names
    )
    assert list(samples.columns)[:2] == ["prompt", "challenger"]
    assert samples["challenger"][1] == "Sorry! A new one is coming."
    assert dict(zip(counts["pairs"], counts["number"], strict=True)) == {
        "received": 90,
        "replayed": 0,
        "train": 80,
        "eval": 8,
        "quarantined": 2,
        "chosen is empty": 1,
        "duplicate of another pair": 1,
        "tag is empty": 1,
    }
    assert quarantined.to_dict("records")[0] == {
        "prompt": "hello there",
        "reason": "chosen is empty; tag is empty",
        "chosen": "good 1",
        "rejected": "bad",
        "origin_round": 1,
    }


def test_record_round_nothing_quarantined_has_no_table_of_it(
    runs: Path, store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    path = directory / "round-001" / "validate_data" / "quarantine.parquet"
    write_table(path, read_table(path).head(0))
    run = store.client.get_run(record_again(1).run_id)
    assert "quarantined" not in run.data.tags["mlflow.loggedArtifacts"]
    assert "quarantined_pairs.json" not in store.files(run)


def test_quarantined_pairs_that_are_many_or_no_chat_are_shown_as_they_are(
    store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    path = directory / "round-001" / "validate_data" / "quarantine.parquet"
    chat = json.dumps(
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": "bye"},
        ]
    )
    prompts = [chat, "no chat", None, *[chat] * 300]
    write_table(
        path, pd.DataFrame({"prompt": prompts, "chosen": "a", "rejected": None, "reason": "rejected is no text"})
    )
    tracked = record_again(1)
    local = store.client.download_artifacts(tracked.run_id, "quarantined_pairs.json")
    table = json.loads(Path(local).read_text())
    assert table["columns"] == ["prompt", "reason", "chosen", "rejected"]
    assert len(table["data"]) == 200
    assert [row[0] for row in table["data"][:3]] == ["user: hi\nassistant: yes?\nuser: bye", "no chat", None]


def test_record_round_system_metrics_are_the_samples_under_mlflows_names(
    store: Any, record: Callable[..., Tracked]
) -> None:
    run = store.client.get_run(record(1).run_id)
    assert store.curve(run, "system/cpu_utilization_percentage") == [(1, 41.0), (2, 42.0)], "the first sample has none"
    assert store.curve(run, "system/process_memory_usage_megabytes") == [(0, 512.0), (1, 513.0), (2, 514.0)]
    points = store.client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert [point.timestamp for point in points] == [1_800_000_002_000, 1_800_000_004_000]
    assert {key for key in run.data.metrics if key.startswith("system/")} == {
        "system/cpu_utilization_percentage",
        "system/process_memory_usage_megabytes",
    }


def test_record_round_several_ranks_are_told_apart(
    store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    samples = [
        {"time": 1.8e9 + number, "seconds": float(number), "rank": number % 2, "gpu_0_power_usage_watts": number}
        for number in range(5)
    ]
    path = directory / "round-001" / "dpo_train" / "system.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    run = store.client.get_run(record_again(1).run_id)
    assert store.curve(run, "system/rank_0/gpu_0_power_usage_watts") == [(0, 0.0), (1, 2.0), (2, 4.0)]
    assert store.curve(run, "system/rank_1/gpu_0_power_usage_watts") == [(0, 1.0), (1, 3.0)]


def test_record_round_of_a_version_without_samples_is_recorded(
    store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    (directory / "round-001" / "dpo_train" / "system.jsonl").unlink()
    run = store.client.get_run(record_again(1).run_id)
    assert run.info.status == "FINISHED"
    assert not [key for key in run.data.metrics if key.startswith("system/")]


def test_record_round_seeded_round_without_scores_logs_no_made_up_numbers(
    store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    shutil.rmtree(directory / "round-001" / "generate_responses")
    for file, change in {
        "evaluate/evaluation.json": {"mean_reward": None, "reward_accuracy": None},
        "dpo_train/train.json": {"eval": None},
    }.items():
        path = directory / "round-001" / file
        write_json(path, read_json(path) | change)
    state = read_json(directory / "campaign.json")
    state["rounds"][0]["mean_reward"] = None
    write_json(directory / "campaign.json", state)
    metrics = store.client.get_run(record_again(1).run_id).data.metrics
    absent = {"mean_reward", "mean_reward/start", "reward_accuracy", "eval_loss", "peak_memory_mb/generate_responses"}
    assert not absent & metrics.keys()
    assert metrics["reward_margin"] == 0.625


def test_record_round_weights_gone_records_the_rest(
    store: Any, build: Any, record_again: Callable[..., Tracked]
) -> None:
    directory, _ = build(1)
    shutil.rmtree(directory / "round-001" / "dpo_train" / "model")
    tracked = record_again(1)
    assert tracked.model_version is None
    assert store.client.get_run(tracked.run_id).info.status == "FINISHED"
