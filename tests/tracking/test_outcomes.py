"""What campaigns of a study reached, in a real SQLite store."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from components.tracking import record_outcome, tracking_uri

REACHED: dict[str, Any] = {
    "experiment": "studies/methods",
    "run_name": "loop, seed 1",
    "params": {"arm": "loop", "seed": "1"},
    "by_round": {1: {"win_rate": 0.7, "reward": None, "promoted": True}, 2: {"win_rate": 0.8, "promoted": False}},
    "final": {"win_rate": 0.7, "reward": None},
}


def runs_of(runs: Path) -> list[Any]:
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("studies/methods")
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.start_time)


def test_outcome_is_one_run_with_a_point_a_round_however_often_it_is_recorded(tmp_path: Path) -> None:
    for _ in range(2):
        record_outcome(tmp_path, digest="a", **REACHED)
    (run,) = runs_of(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"arm": "loop", "seed": "1"}
    history = MlflowClient(tracking_uri(tmp_path)).get_metric_history(run.info.run_id, "win_rate")
    assert [(point.step, point.value) for point in history] == [(1, 0.7), (2, 0.8)]
    assert run.data.metrics["final/win_rate"] == 0.7
    assert "reward" not in run.data.metrics


def test_outcome_that_changed_supersedes_the_former_run(tmp_path: Path) -> None:
    for digest in ("a", "b"):
        record_outcome(tmp_path, digest=digest, **REACHED)
    former, present = runs_of(tmp_path)
    assert former.info.run_name == "loop, seed 1 (superseded)"
    assert (present.info.run_name, present.data.tags["result"]) == ("loop, seed 1", "b")
    assert "superseded" not in present.data.tags
