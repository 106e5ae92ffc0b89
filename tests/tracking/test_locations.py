"""Where files lie: one place, with a server and without one, whichever folder a command is typed in."""

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.artifacts import download_artifacts

from components.campaign.state import read_state
from components.tracking import Tracked, TrackingRefused, collect_copies, ensure_store
from flows.servers.mlflow_app import mlflow_environment
from tests.tracking.conftest import serve_mlflow

MODEL_FILES = {"README.md", "config.json", "model.safetensors"}


def champion(runs: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the files that the champion's address gives, as the documentation loads it."""
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        patch.chdir(runs)
        return set(os.listdir(download_artifacts("models:/demo@champion")))


def test_campaign_goes_on_with_our_server_and_without_it_and_its_champion_is_always_found(
    runs: Path, record: Callable[..., Tracked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed_in = tmp_path / "typed-in"
    typed_in.mkdir()
    store = f"sqlite:///{runs / 'mlflow.db'}"
    environment = mlflow_environment(runs, runs / ".services", store=store, port=0, sign_in=False)
    with serve_mlflow(cwd=typed_in, env=environment) as port:
        server = f"http://127.0.0.1:{port}"
        for number, uri in enumerate((server, store, server), 1):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            assert record(number).model_version == number
            assert champion(runs, server, monkeypatch) == champion(runs, store, monkeypatch) == MODEL_FILES
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        assert os.listdir(typed_in) == []
        copies = [path for path in runs.rglob("model.safetensors") if "demo" not in path.relative_to(runs).parts[0]]
        assert {path.relative_to(runs).parts[0] for path in copies} == {"mlartifacts"}
        state = read_state(runs / "demo")
        assert state is not None
        freed = collect_copies(runs / "demo", state.rounds, dry_run=False)
        assert set(freed) == {1, 2}, "the third is the champion"
        assert min(freed.values()) > 500
        assert len([path for path in copies if path.exists()]) == 1
        # A campaign that begins anew replaces its own old one through the server too, whose store is ours alone.
        shutil.rmtree(runs / "demo")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        assert record(1, weights="anew").model_version == 4


def recorded_by_an_earlier_server(runs: Path) -> None:
    """Give all files the addresses that the server of an earlier version gave them."""
    columns = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    with closing(sqlite3.connect(runs / "mlflow.db")) as database, database:
        for table, column in (columns | {"model_versions": "storage_location"}).items():
            root = (runs / "mlartifacts").as_uri()
            database.execute(f"UPDATE {table} SET {column} = replace({column}, '{root}', 'mlflow-artifacts:')")


def test_campaign_that_the_server_of_an_earlier_version_recorded_goes_on_without_it(
    runs: Path, record: Callable[..., Tracked], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(1)
    recorded_by_an_earlier_server(runs)
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    assert store.client.get_experiment_by_name("demo").artifact_location == "mlflow-artifacts:/demo"
    assert record(2, promoted=False).model_version == 2
    assert champion(runs, uri, monkeypatch) == MODEL_FILES, "its files from before are found"
    state = read_state(runs / "demo")
    assert state is not None
    assert set(collect_copies(runs / "demo", state.rounds[1:], dry_run=True)) == set(), "the challenger is in use"


def test_files_that_an_earlier_version_left_in_another_folder_are_asked_for(
    runs: Path, record: Callable[..., Tracked], caplog: pytest.LogCaptureFixture
) -> None:
    record(1)
    recorded_by_an_earlier_server(runs)
    kept, expected = runs / "mlartifacts" / "demo", runs / "elsewhere"
    kept.rename(expected)
    with caplog.at_level(logging.WARNING):
        ensure_store(runs)
        ensure_store(runs)
    (line,) = [each.getMessage() for each in caplog.records if "MLflow's files of demo" in each.getMessage()]
    assert f"expected in {kept}" in line
    assert "move mlartifacts/demo from there" in line
    state = read_state(runs / "demo")
    assert state is not None
    record(2)
    record(3)
    assert collect_copies(runs / "demo", state.rounds, dry_run=False) == {}, "nothing was freed"
    (expected / "models").rename(kept / "moved")
    for model in (kept / "moved").iterdir():
        model.rename(kept / "models" / model.name)
    assert set(collect_copies(runs / "demo", state.rounds, dry_run=False)) == {1}


def test_files_behind_a_server_are_refused_in_one_line_if_a_shared_database_is_opened(
    runs: Path, record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    record(1)
    recorded_by_an_earlier_server(runs)
    (runs / "mlflow.db").rename(runs / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'shared.db'}")
    with pytest.raises(TrackingRefused, match="set MLFLOW_TRACKING_URI to that server's address"):
        record(2)


def test_artifacts_lie_where_the_variable_says(
    runs: Path, record: Callable[..., Tracked], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_ARTIFACTS", str(tmp_path / "big disk"))
    record(1)
    assert list((tmp_path / "big disk" / "demo").rglob("model.safetensors"))
    assert not (runs / "mlartifacts").exists()
    root = (tmp_path / "big disk").as_uri()
    assert store.client.get_experiment_by_name("demo").artifact_location == f"{root}/demo"

    def server_root() -> str:
        services = tmp_path / "services"
        return mlflow_environment(runs, services, store="sqlite://", port=0, sign_in=False)[
            "MLFLOW_DEFAULT_ARTIFACT_ROOT"
        ]

    assert server_root() == root
    monkeypatch.setenv("RATCHET_ARTIFACTS", "s3://bucket/path/")
    assert server_root() == "s3://bucket/path"
