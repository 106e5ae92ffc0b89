"""Samples of the machine.

What each holds, that a short training has points, and that a fault of the sampling stops nothing.
"""

import json
import logging
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.dpo import system

CPU = torch.device("cpu")


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "system.jsonl").read_text().splitlines()]


def test_sampled_short_block_has_a_sample_at_its_begin_and_at_its_end(tmp_path: Path) -> None:
    with system.sampled(tmp_path, rank=0, device=CPU):
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            sum(range(1000))
    first, last = lines(tmp_path)
    assert first["seconds"] < 0.2 < last["seconds"] < system.SHORTEST_PAUSE
    assert abs(last["time"] - time.time()) < 10
    assert first["rank"] == last["rank"] == 0
    memory = {"system_memory_usage_megabytes", "system_memory_usage_percentage", "process_memory_usage_megabytes"}
    assert first.keys() == {"time", "seconds", "rank"} | memory, (
        "nothing is known of the CPU's use before the first look"
    )
    assert last.keys() == first.keys() | {"cpu_utilization_percentage", "process_cpu_utilization_percentage"}
    assert last["process_cpu_utilization_percentage"] > 5
    assert 0 < last["process_memory_usage_megabytes"] < last["system_memory_usage_megabytes"] * 2


def test_sampled_long_block_is_sampled_meanwhile_by_every_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "SHORTEST_PAUSE", 0.05)
    with system.sampled(tmp_path, rank=0, device=CPU), system.sampled(tmp_path, rank=1, device=CPU):
        time.sleep(0.5)
    for rank in (0, 1):
        own = [line["seconds"] for line in lines(tmp_path) if line["rank"] == rank]
        assert len(own) > 3
        assert own == sorted(own)


def test_sampled_block_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(KeyError), system.sampled(tmp_path, rank=0, device=CPU):
        raise KeyError
    assert "system-metrics" not in {thread.name for thread in threading.enumerate()}


def test_sampled_where_nothing_can_be_written_warns_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), system.sampled(tmp_path / "nowhere", rank=0, device=CPU):
        done = True
    assert done
    assert "no system metrics at this moment: FileNotFoundError" in caplog.text


def test_gpu_values_of_a_driver_that_cannot_measure_power_are_the_others() -> None:
    class NVMLError(Exception): ...

    def unsupported(handle: Any) -> int:
        raise NVMLError

    driver = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=20e9, total=80e9),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=97),
        nvmlDeviceGetPowerUsage=unsupported,
    )
    assert system._gpu_values(driver, object(), "gpu_3") == {
        "gpu_3_memory_usage_percentage": 25.0,
        "gpu_3_memory_usage_megabytes": 20e3,
        "gpu_3_utilization_percentage": 97.0,
    }


def test_gpu_reader_without_a_gpu_gives_no_values() -> None:
    assert system._gpu_reader(CPU)() == {}
