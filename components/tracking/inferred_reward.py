"""Add what was measured of an inferred reward to the run of its round."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from components.campaign.state import read_state
from components.tracking.filling import add_files
from components.tracking.runs import find_experiment
from components.tracking.store import connected, store_exists

PREFIX = "inferred_reward"


def record_inferred_reward(campaign_dir: Path, result: Mapping[str, Any]) -> bool:
    """Add the measures as metrics, and their JSON as a file; a measure that has not changed gets no second point.

    Args:
        campaign_dir: runs/<campaign>.
        result: Content of inferred_reward.json, with measures.

    Returns:
        Whether MLflow has the round; without it nothing is added.

    Raises:
        NameTaken: Another campaign with this name is in MLflow; nothing of it was changed.
        TrackingUnavailable: MLflow cannot be reached or written.
    """
    state = read_state(campaign_dir)
    assert state is not None, campaign_dir
    run_id = next((record.mlflow_run_id for record in state.rounds if record.round == result["round"]), None)
    if run_id is None or not store_exists(campaign_dir.parent):
        return False
    with connected(campaign_dir.parent) as client:
        if find_experiment(client, campaign_dir, state) is None:
            return False
        _add(client, run_id, _values(result["held_out"]))
        content = json.dumps(result, indent=1, ensure_ascii=False).encode()
        add_files(client, client.get_run(run_id), {f"{PREFIX}.json": content})
    return True


def _values(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return the measures by metric; one that is missing has no point."""
    intervals = {
        "accuracy": measured["reward"]["accuracy"],
        "against_accuracy": measured.get("against", {}).get("accuracy"),
        "gain": measured.get("gain"),
    }
    return {
        f"{PREFIX}/{name}{end}": float(interval[key])
        for name, interval in intervals.items()
        if interval is not None
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _add(client: MlflowClient, run_id: str, values: Mapping[str, float]) -> None:
    known = client.get_run(run_id).data.metrics
    now = time.time_ns() // 1_000_000
    points = [
        Metric(name, value, now, len(client.get_metric_history(run_id, name)) if name in known else 0)
        for name, value in values.items()
        if known.get(name) != value
    ]
    client.log_batch(run_id, metrics=points, synchronous=True)
