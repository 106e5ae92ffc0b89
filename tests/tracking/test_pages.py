"""Addresses of MLflow's pages, and the view that they open."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from components.tracking import Tracked, compare_url, experiment_url


def test_urls_a_server_has_pages_and_a_file_has_none() -> None:
    page = "https://host:5000/ml/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=rounds"
    assert experiment_url("https://me:secret@host:5000/ml/", "7") == page
    compared = "http://host/#/compare-runs?runs=%5B%22a%22%2C%22b%22%5D&experiments=%5B%227%22%5D&workflowType=machine_learning"
    assert compare_url("http://host", "7", ["a", "b"]) == compared
    assert (
        experiment_url("sqlite:////runs/mlflow.db", "7")
        == compare_url("sqlite:////runs/mlflow.db", "7", ["a"])
        == "sqlite:////runs/mlflow.db"
    )


def test_urls_name_the_server_as_browsers_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_MLFLOW_PAGE", "https://mlflow.example.com/")
    assert experiment_url("http://mlflow:5000", "7").startswith("https://mlflow.example.com/#/experiments/7/runs?")
    assert experiment_url("sqlite:////runs/mlflow.db", "7") == "sqlite:////runs/mlflow.db"


def test_experiment_view_links_open_names_metrics_that_a_round_has(store: Any, record: Callable[..., Tracked]) -> None:
    tracked = record(1)
    client = store.client
    tags = client.get_experiment(tracked.experiment_id).tags
    key = experiment_url("http://host", "1").partition("viewStateShareKey=")[2]
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.{key}"])["state"])
    metrics = client.get_run(tracked.run_id).data.metrics
    assert {chart["metricKey"] for chart in view["compareRunCharts"]} <= metrics.keys()
    columns = [column.split("`")[1] for column in view["selectedColumns"] if column.startswith("metrics.")]
    assert set(columns) <= metrics.keys()
