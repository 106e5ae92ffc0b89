"""What every measurement records: its samples, medians with intervals, and the state of the machine it ran on."""

import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats


def interval_of_median(values: Sequence[float]) -> dict[str, float]:
    """Return the median and its 95 % bootstrap interval."""
    chance = np.random.default_rng(1)
    drawn = np.median(chance.choice(np.asarray(values), size=(2000, len(values))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high), "n": len(values)}


def interval_of_mean(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and Student's 95 % interval: for a few samples that are about normal, such as one per seed."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "n": len(values)}


def ratio_of_means(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Return the mean of theirs over the mean of ours, with the 95 % bootstrap interval."""
    chance = np.random.default_rng(1)
    drawn = [np.mean(chance.choice(theirs, len(theirs))) / np.mean(chance.choice(ours, len(ours))) for _ in range(2000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"ratio": float(np.mean(theirs) / np.mean(ours)), "low": float(low), "high": float(high), "n": len(ours)}


def ratio_of_paired_means(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Return the same ratio for paired samples: both did the same work in each place, so places are resampled."""
    chance = np.random.default_rng(1)
    pairs = np.array([theirs, ours])
    drawn = pairs[:, chance.integers(len(ours), size=(2000, len(ours)))].mean(axis=2)
    low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
    return {"ratio": float(np.mean(theirs) / np.mean(ours)), "low": float(low), "high": float(high), "n": len(ours)}


def conditions() -> dict[str, Any]:
    """Return the time, the load of the machine and its free memory."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_1_5_15_min": [round(load, 2) for load in os.getloadavg()],
        "memory_free_gib": round(psutil.virtual_memory().available / 2**30, 1),
        "monotonic": time.monotonic(),
    }


def write_result(path: Path, *, before: dict[str, Any], summary: dict[str, Any], samples: list[Any]) -> None:
    """Write the samples with their summary and their origin."""
    machine = {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    packages = {
        name: _version(name) for name in ("prefect", "mlflow", "torch", "transformers", "trl", "pandas", "matplotlib")
    }
    content = {
        "summary": summary,
        "before": before,
        "after": conditions(),
        "machine": machine,
        "packages": packages,
        "samples": samples,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _version(name: str) -> str | None:
    """Return the installed version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
