"""A recording is repeated, interrupted and late: nothing is added twice, and nothing is missing."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from components.tracking import Tracked

POINTS = ("loss", "win_rate_vs_start", "promoted", "seconds/dpo_train", "system/cpu_utilization_percentage")


def test_record_round_again_adds_nothing(
    store: Any, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    tracked = record(1), record(2)
    before = store.everything()
    assert (record_again(1), record_again(2)) == tracked
    assert store.everything() == before
    assert len(json.loads(before)["versions"]) == len(json.loads(before)["models"]) == 2


def test_record_round_again_after_its_files_were_copied_adds_no_second_points(
    runs: Path, store: Any, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    tracked = record(1)
    client = store.client
    run = client.get_run(tracked.run_id)
    before = {key: store.curve(run, key) for key in POINTS}
    ended = run.info.end_time
    for manifest in (runs / "demo").rglob("MANIFEST.json"):
        os.utime(manifest)
    record_again(1)
    run = client.get_run(tracked.run_id)
    assert run.info.end_time == ended
    assert {key: store.curve(run, key) for key in POINTS} == before
    assert store.curve(store.runs()["campaign"], "kl_to_start") == [(1, 4.5)]


def test_record_round_again_uploads_no_weights(
    record: Callable[..., Tracked], record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(1)
    uploads: list[Any] = []
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", lambda *args: uploads.append(args))
    record_again(1)
    assert uploads == []


def test_record_round_killed_after_any_write_ends_as_if_undisturbed(
    runs: Path,
    store: Any,
    record: Callable[..., Tracked],
    record_again: Callable[..., Tracked],
    killed_after_write: Callable[[int], Any],
) -> None:
    record(1)
    undisturbed = store.everything()
    for write in itertools.count(1):
        campaign = f"demo-{write}"
        shutil.copytree(runs / "demo", runs / campaign)
        with killed_after_write(write) as killed:
            record_again(1, campaign)
        record_again(1, campaign)
        assert store.everything(campaign) == undisturbed, f"killed after write {write}"
        assert not store.running(campaign)
        if not killed.happened:
            break
    assert write > 15, "fewer writes than a recording makes: the kills did not happen"


def test_record_round_killed_within_a_curve_adds_only_the_missing_points(
    store: Any, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(1)
    monkeypatch.setattr("components.tracking.filling._MAX_METRICS", 2)
    write = MlflowClient.log_batch

    def dies_within_the_loss(client: MlflowClient, run_id: str, metrics: Sequence[Metric] = (), **rest: Any) -> None:
        write(client, run_id, metrics=metrics, **rest)
        if any(point.key == "loss" and point.step in (2, 3) for point in metrics):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", dies_within_the_loss)
        with pytest.raises(KeyboardInterrupt):
            record_again(1)
    run = store.runs()["round 001"]
    assert 0 < len(store.curve(run, "loss")) < 5
    record_again(1)
    assert store.curve(run, "loss") == [(step, 1 / (1 + step)) for step in range(1, 6)]
    assert store.curve(run, "seconds/promote") == [(0, 0.125)]
    assert store.curve(run, "system/process_memory_usage_megabytes") == [(0, 512.0), (1, 513.0), (2, 514.0)]


def test_campaign_run_has_one_point_a_round_whatever_the_order(
    store: Any, build: Any, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    record(1)
    build(2)  # MLflow was away
    record(3, promoted=False)
    record_again(2)
    client = store.client
    campaign = store.runs()["campaign"]
    assert sorted(store.curve(campaign, "win_rate_vs_start")) == [(1, 0.75), (2, 0.8125), (3, 0.875)]
    assert sorted(store.curve(campaign, "promoted")) == [(1, 1.0), (2, 1.0), (3, 0.0)]
    assert campaign.info.status == "FINISHED"
    assert campaign.data.tags["champion"] == "2"
    assert campaign.info.end_time == store.runs()["round 003"].info.end_time
    versions = {
        version.tags["round"]: int(version.version) for version in client.search_model_versions("name = 'demo'")
    }
    assert store.aliases() == {"challenger": versions["3"], "champion": versions["2"]}
    newest = record(4)
    record_again(3)
    assert store.runs()["campaign"].data.tags["champion"] == "4"
    assert store.aliases() == {"challenger": newest.model_version, "champion": newest.model_version}
