import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from components.artifacts import read_json, write_json
from components.tracking import (
    Tracked,
    TrackingUnavailable,
    compare_url,
    ensure_store,
    experiment_url,
    record_round,
    tracking_uri,
)

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

GIT_SHA = "0123456789abcdef0123456789abcdef01234567"
WRITES = (
    "create_experiment",
    "create_run",
    "update_run",
    "log_batch",
    "log_inputs",
    "log_artifacts",
    "log_outputs",
    "create_logged_model",
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
# One curve of each kind in full, since one look at every point of every metric takes longer than writing them.
POINTS = ("loss", "logps/chosen", "win_rate_vs_start", "promoted", "seconds/dpo_train")


class Killed(BaseException):
    """Ends the process for the test: no handler of the code under test may see it as an error that it can answer."""


def die_after_write(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lets the given number of client writes happen, and then kills."""
    done = itertools.count(1)

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if next(done) >= number:
                raise Killed
            return result

        return wrapped

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, wrap(getattr(MlflowClient, name)))


def client_of(runs: Path) -> MlflowClient:
    return MlflowClient(tracking_uri(runs))


def runs_of(client: MlflowClient, campaign: str = "demo") -> dict[str, Run]:
    experiment = client.get_experiment_by_name(campaign)
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    assert len({run.info.run_name for run in found}) == len(found), "two runs have the same name"
    return {run.info.run_name: run for run in found}


def curve(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def everything(client: MlflowClient, campaign: str = "demo") -> str:
    """All that MLflow has of a campaign, without its name, ids and the times of writing."""
    state: dict[str, Any] = {}
    for name, run in runs_of(client, campaign).items():
        history = [point for key in POINTS for point in client.get_metric_history(run.info.run_id, key)]
        state[name] = {
            "info": (run.info.status, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "metrics": run.data.metrics,
            "tags": run.data.tags,
            "points": sorted((point.key, point.step, point.value, point.timestamp) for point in history),
            "inputs": sorted(f"{item.dataset.name} {item.dataset.digest} {item.tags[0].value}" for item in run.inputs.dataset_inputs),
            "outputs": len(run.outputs.model_outputs),
            "files": files_of(run),
        }
    models = client.search_logged_models([client.get_experiment_by_name(campaign).experiment_id])
    state["models"] = [(model.name, str(model.status), model.tags) for model in models]
    versions = client.search_model_versions(f"name = '{campaign}'")
    state["versions"] = [(version.version, version.tags, version.description, version.aliases) for version in versions]
    return json.dumps(state, indent=1, sort_keys=True).replace(campaign, "demo")


def aliases_of(client: MlflowClient) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model("demo").aliases.items()}


def files_of(run: Run) -> list[str]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def record(build: Any, config: dict[str, Any]) -> Callable[..., Tracked]:
    """Builds a round and records it."""

    def build_and_record(number: int, **kwargs: Any) -> Tracked:
        directory, built = build(number, **kwargs)
        return record_round(directory, number, config=config, record=built, git_sha=GIT_SHA)

    return build_and_record


@pytest.fixture
def record_again(runs: Path, config: dict[str, Any]) -> Callable[..., Tracked]:
    """Records a round of campaign.json, as a retry or a later start does."""
    from components.records import RoundRecord

    def again(number: int, campaign: str = "demo") -> Tracked:
        entry = next(entry for entry in read_json(runs / campaign / "campaign.json")["rounds"] if entry["round"] == number)
        return record_round(runs / campaign, number, config=config, record=RoundRecord.model_validate(entry), git_sha=GIT_SHA)

    return again


def test_record_round_first_time_tells_everything_about_the_round(runs: Path, record: Callable[..., Tracked]) -> None:
    environment = dict(os.environ)
    tracked = record(1)
    assert dict(os.environ) == environment
    assert mlflow.active_run() is None
    client = client_of(runs)
    run = client.get_run(tracked.run_id)
    assert run.info.run_name == "round 001"
    assert run.info.status == "FINISHED"
    promoted_at = (runs / "demo" / "round-001" / "promote" / "MANIFEST.json").stat().st_mtime_ns // 1_000_000
    assert run.info.end_time == promoted_at
    assert run.info.start_time < promoted_at
    assert run.info.experiment_id == tracked.experiment_id
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.params["training.beta"] == "0.1"
    assert run.data.params["policy.model"] == "builtin"
    assert run.data.params["judge.model"] == ""
    manifest = read_json(runs / "demo" / "round-001" / "validate_data" / "MANIFEST.json")
    expected = {"round": "1", "promoted": "true", "champion": "1", "git_sha": GIT_SHA, "campaign": "demo"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["data_digest"] == manifest["files"]["train.parquet"]["sha256"]
    assert run.data.tags["judge"].startswith("rule:support_reply@")
    assert len(run.data.tags["policy_digest"]) == len(run.data.tags["reference_digest"]) == 64
    experiment = client.get_experiment(tracked.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_record_round_metrics_are_the_files_numbers_at_their_steps(runs: Path, record: Callable[..., Tracked]) -> None:
    tracked = record(1)
    client = client_of(runs)
    run = client.get_run(tracked.run_id)
    assert curve(client, run, "loss") == [(step, 1 / (1 + step)) for step in range(1, 6)]
    assert curve(client, run, "rewards/margins") == [(step, step / 4) for step in range(1, 6)]
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
        "promoted": 1,
        "seconds": 10.0,
        "seconds/dpo_train": 4.0,
    }
    assert {key: run.data.metrics[key] for key in once} == once
    peak = read_json(runs / "demo" / "round-001" / "evaluate" / "MANIFEST.json")["peak_memory_bytes"]
    assert run.data.metrics["peak_memory_mb/evaluate"] == peak / 2**20


def test_record_round_inputs_and_files_are_the_rounds(runs: Path, record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch) -> None:
    tracked = record(1)
    client = client_of(runs)
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
    paths = files_of(run)
    assert expected <= set(paths)
    assert not [path for path in paths if "model" in path], "weights belong to the registered version only"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": name, "type": "table"} for name in ("samples.json", "validation_counts.json")
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(runs))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    samples = client.load_table(tracked.experiment_id, "samples.json", run_ids=[tracked.run_id])
    assert list(samples.columns)[:2] == ["prompt", "challenger"]
    assert samples["challenger"][1] == "Sorry! A new one is coming."


def test_record_round_again_adds_nothing(runs: Path, record: Callable[..., Tracked], record_again: Callable[..., Tracked]) -> None:
    tracked = record(1), record(2)
    client = client_of(runs)
    before = everything(client)
    assert (record_again(1), record_again(2)) == tracked
    assert everything(client) == before
    assert len(json.loads(before)["versions"]) == len(json.loads(before)["models"]) == 2


def test_record_round_again_after_its_files_were_copied_adds_no_second_points(
    runs: Path, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    tracked = record(1)
    client = client_of(runs)
    run = client.get_run(tracked.run_id)
    before = {key: curve(client, run, key) for key in POINTS}
    ended = run.info.end_time
    for manifest in (runs / "demo").rglob("MANIFEST.json"):
        os.utime(manifest)
    record_again(1)
    run = client.get_run(tracked.run_id)
    assert run.info.end_time == ended
    assert {key: curve(client, run, key) for key in POINTS} == before
    assert curve(client, runs_of(client)["campaign"], "kl_to_start") == [(1, 4.5)]


def test_record_round_again_uploads_no_weights(
    runs: Path, record: Callable[..., Tracked], record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(1)
    uploads: list[Any] = []
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", lambda *args: uploads.append(args))
    record_again(1)
    assert uploads == []


def test_record_round_killed_after_any_write_ends_as_if_undisturbed(
    runs: Path, record: Callable[..., Tracked], record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(1)
    client = client_of(runs)
    undisturbed = everything(client)
    for write in itertools.count(1):
        campaign = f"demo-{write}"
        shutil.copytree(runs / "demo", runs / campaign)
        with monkeypatch.context() as patch:
            die_after_write(patch, write)
            try:
                record_again(1, campaign)
            except Killed:
                killed = True
            else:
                killed = False
        record_again(1, campaign)
        assert everything(client, campaign) == undisturbed, f"killed after write {write}"
        assert not running(client, campaign)
        if not killed:
            break
    assert write > 15, "fewer writes than a recording makes: the kills did not happen"


def running(client: MlflowClient, campaign: str) -> list[str]:
    return [name for name, run in runs_of(client, campaign).items() if run.info.status == "RUNNING"]


def test_record_round_killed_within_a_curve_adds_only_the_missing_points(
    runs: Path, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(1)
    monkeypatch.setattr("components.tracking.filling._MAX_METRICS", 17)
    with monkeypatch.context() as patch:
        die_after_write(patch, 7)  # experiment, run, params, four batches of points
        with pytest.raises(Killed):
            record_again(1)
    client = client_of(runs)
    run = runs_of(client)["round 001"]
    assert 0 < len(curve(client, run, "loss")) < 5
    record_again(1)
    assert curve(client, run, "loss") == [(step, 1 / (1 + step)) for step in range(1, 6)]
    assert curve(client, run, "seconds/promote") == [(0, 0.125)]


def test_aliases_over_three_rounds_champion_moves_only_when_promoted(runs: Path, record: Callable[..., Tracked]) -> None:
    client = client_of(runs)
    seen = []
    for number, promoted in ((1, True), (2, False), (3, True)):
        tracked = record(number, promoted=promoted)
        assert tracked.model_version == number
        seen.append(aliases_of(client))
    assert seen == [{"challenger": 1, "champion": 1}, {"challenger": 2, "champion": 1}, {"challenger": 3, "champion": 3}]
    refused = client.get_model_version("demo", "2")
    assert refused.tags["promoted"] == "false"
    assert refused.tags["champion"] == "1"
    assert refused.tags["round"] == "2"
    assert "lower bound 0.41 is not above 0.5" in refused.description
    assert refused.run_id == runs_of(client)["round 002"].info.run_id


def test_aliases_nothing_promoted_yet_there_is_no_champion(runs: Path, record: Callable[..., Tracked]) -> None:
    record(1, promoted=False)
    assert aliases_of(client_of(runs)) == {"challenger": 1}


def test_campaign_run_has_one_point_a_round_whatever_the_order(
    runs: Path, build: Any, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    record(1)
    build(2)  # MLflow was away
    record(3, promoted=False)
    record_again(2)
    client = client_of(runs)
    campaign = runs_of(client)["campaign"]
    assert sorted(curve(client, campaign, "win_rate_vs_start")) == [(1, 0.75), (2, 0.8125), (3, 0.875)]
    assert sorted(curve(client, campaign, "promoted")) == [(1, 1.0), (2, 1.0), (3, 0.0)]
    assert campaign.info.status == "FINISHED"
    assert campaign.data.tags["champion"] == "2"
    assert campaign.info.end_time == runs_of(client)["round 003"].info.end_time
    versions = {version.tags["round"]: int(version.version) for version in client.search_model_versions("name = 'demo'")}
    assert aliases_of(client) == {"challenger": versions["3"], "champion": versions["2"]}
    newest = record(4)
    record_again(3)
    assert runs_of(client)["campaign"].data.tags["champion"] == "4"
    assert aliases_of(client) == {"challenger": newest.model_version, "champion": newest.model_version}


def test_campaign_begun_again_under_its_name_is_not_mixed_with_the_old_one(runs: Path, record: Callable[..., Tracked]) -> None:
    old = [record(number) for number in (1, 2)]
    shutil.rmtree(runs / "demo")
    new = record(1, promoted=False, weights="others")
    client = client_of(runs)
    assert client.get_run(new.run_id).info.run_name == "round 001"
    assert new.run_id not in {tracked.run_id for tracked in old}
    assert client.get_run(old[0].run_id).info.run_name == "round 001 (superseded)"
    assert client.get_run(old[1].run_id).info.run_name == "round 002 (superseded)"
    campaigns = [run for name, run in campaign_runs(client).items() if name == "campaign"]
    assert curve(client, campaigns[0], "promoted") == [(1, 0.0)]
    assert aliases_of(client) == {"challenger": 3}, "the deleted campaign's champion is not this one's"
    record(2, weights="others")
    assert aliases_of(client) == {"challenger": 4, "champion": 4}


def campaign_runs(client: MlflowClient) -> dict[str, Run]:
    return {name: run for name, run in runs_of(client).items() if run.data.tags["kind"] == "campaign"}


def test_record_round_seeded_round_without_scores_logs_no_made_up_numbers(
    runs: Path, build: Any, record_again: Callable[..., Tracked]
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
    metrics = client_of(runs).get_run(record_again(1).run_id).data.metrics
    absent = {"mean_reward", "mean_reward/start", "reward_accuracy", "eval_loss", "peak_memory_mb/generate_responses"}
    assert not absent & metrics.keys()
    assert metrics["reward_margin"] == 0.625


def test_record_round_weights_gone_records_the_rest(runs: Path, build: Any, record_again: Callable[..., Tracked]) -> None:
    directory, _ = build(1)
    shutil.rmtree(directory / "round-001" / "dpo_train" / "model")
    tracked = record_again(1)
    assert tracked.model_version is None
    assert client_of(runs).get_run(tracked.run_id).info.status == "FINISHED"


def test_champion_loads_back_from_the_downloads_root_and_generates(
    runs: Path, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, _ = build(1)
    trained = save_tiny_llama(directory / "round-001" / "dpo_train" / "model")
    build(2, promoted=False)
    record_again(1)
    record_again(2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(runs))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    downloaded = download_artifacts("models:/demo@champion", dst_path=str(runs / "downloaded"))
    model = AutoModelForCausalLM.from_pretrained(downloaded)
    tokenizer = AutoTokenizer.from_pretrained(downloaded)
    loaded = model.state_dict()
    assert trained.keys() == loaded.keys()
    assert all(torch.equal(trained[name], loaded[name]) for name in trained)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a b"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert output.shape[1] > prompt["input_ids"].shape[1]


def save_tiny_llama(directory: Path) -> dict[str, Any]:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<end>": 1, "<unk>": 2, "user": 3, "assistant": 4, "a": 5, "b": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")
    fast.chat_template = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}assistant"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **sizes))
    shutil.rmtree(directory)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return model.state_dict()


def test_adapter_round_registers_the_adapters_directory(runs: Path, build: Any, record_again: Callable[..., Tracked]) -> None:
    directory, _ = build(1)
    trained = directory / "round-001" / "dpo_train"
    (trained / "model").rename(trained / "adapter")
    (trained / "adapter" / "adapter_config.json").write_text("{}")
    record_again(1)
    client = client_of(runs)
    model_id = client.get_model_version_by_alias("demo", "champion").source.removeprefix("models:/")
    files = {entry.path for entry in client.list_logged_model_artifacts(model_id)}
    assert files == {"adapter_config.json", "config.json", "model.safetensors"}


def test_record_round_unreachable_server_raises_within_seconds_and_ships_later(
    runs: Path, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(TrackingUnavailable, match=f"127.0.0.1:{port}") as caught:
        record_again(1)
    assert time.monotonic() - started < 20
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert record_again(1).model_version == 1


def test_record_round_experiment_deleted_in_mlflow_says_how_to_bring_it_back(
    runs: Path, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    tracked = record(1)
    client_of(runs).delete_experiment(tracked.experiment_id)
    with pytest.raises(TrackingUnavailable, match=f"mlflow experiments restore -x {tracked.experiment_id}"):
        record_again(1)


def test_ensure_store_killed_while_making_it_leaves_no_half_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class DiesHalfWay:
        def __init__(self, uri: str) -> None:
            Path(uri.removeprefix("sqlite:///")).write_text("half of the tables")
            raise Killed

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("components.tracking.store.MlflowClient", DiesHalfWay)
    with pytest.raises(Killed):
        ensure_store(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_tracking_uri_is_the_environments_or_the_file_beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(Path("runs")) == "http://tracking:5000"


def test_urls_a_server_has_pages_and_a_file_has_none() -> None:
    page = "https://host:5000/ml/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=rounds"
    assert experiment_url("https://me:secret@host:5000/ml/", "7") == page
    assert (
        compare_url("http://host", "7", ["a", "b"]) == "http://host/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%5D"
    )
    assert (
        experiment_url("sqlite:////runs/mlflow.db", "7")
        == compare_url("sqlite:////runs/mlflow.db", "7", ["a"])
        == "sqlite:////runs/mlflow.db"
    )


def test_experiment_view_links_open_names_metrics_that_a_round_has(runs: Path, record: Callable[..., Tracked]) -> None:
    tracked = record(1)
    client = client_of(runs)
    tags = client.get_experiment(tracked.experiment_id).tags
    key = experiment_url("http://host", "1").partition("viewStateShareKey=")[2]
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"])
    metrics = client.get_run(tracked.run_id).data.metrics
    assert {chart["metricKey"] for chart in view["compareRunCharts"]} <= metrics.keys()
    columns = [column.split("`")[1] for column in view["selectedColumns"] if column.startswith("metrics.")]
    assert set(columns) <= metrics.keys()
