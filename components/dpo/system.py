"""Sample what training costs its machine: CPU, memory and GPU on every rank, in a thread beside the training.

Owns `system.jsonl`. Draws no random number and touches no tensor, so it cannot change a result. No stage reads the
file.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

SYSTEM_FILE = "system.jsonl"
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSE_SHARE = 2.0, 30.0, 0.01
"""A pause is this share of the time so far, between these seconds: half a minute gives 15 points, a day 3,100."""

log = logging.getLogger(__name__)


@contextlib.contextmanager
def sampled(out: Path, *, rank: int, device: torch.device) -> Iterator[None]:
    """Sample while the block runs, and at its beginning and end, so that a short training has points.

    Every rank of a machine appends its lines to one `system.jsonl`: Unix time, seconds since this rank began, rank,
    and the values under the names that MLflow's own monitor gives them. A value that cannot be measured is absent.

    Args:
        out: The stage's output.
        rank: This process's rank.
        device: Where this rank trains; a GPU is sampled too if `pynvml` (nvidia-ml-py) can be imported.
    """
    stop = threading.Event()
    monitor = _Monitor(out / SYSTEM_FILE, rank, device)
    thread = threading.Thread(target=monitor.run, args=[stop], name="system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Monitor:
    def __init__(self, path: Path, rank: int, device: torch.device) -> None:
        self.path, self.rank, self.started = path, rank, time.monotonic()
        self.process = psutil.Process()
        self.read_gpu = _gpu_reader(device)
        self.begun = False

    def run(self, stop: threading.Event) -> None:
        # All in one thread: psutil's CPU share is the mean since the same thread's last look.
        self.write()
        while not stop.wait(min(LONGEST_PAUSE, max(SHORTEST_PAUSE, PAUSE_SHARE * (time.monotonic() - self.started)))):
            self.write()
        self.write()

    def write(self) -> None:
        try:
            line = {"time": time.time(), "seconds": time.monotonic() - self.started, "rank": self.rank} | self.values()
            # One write of a short line to a file opened for appending: lines of several ranks do not mix.
            with self.path.open("ab", buffering=0) as file:
                file.write(f"{json.dumps(line)}\n".encode())
        except Exception as error:  # a full disk or a driver's fault is not a reason to lose a training
            log.warning("no system metrics at this moment: %s: %s", type(error).__name__, error)

    def values(self) -> dict[str, float]:
        machine, cpu, own_cpu = psutil.virtual_memory(), psutil.cpu_percent(), self.process.cpu_percent()
        # These are means since the last look, so the first look has none.
        means = {"cpu_utilization_percentage": cpu, "process_cpu_utilization_percentage": own_cpu} if self.begun else {}
        self.begun = True
        memory = {
            "system_memory_usage_megabytes": machine.used / 1e6,
            "system_memory_usage_percentage": machine.used / machine.total * 100,
            "process_memory_usage_megabytes": self.process.memory_info().rss / 1e6,
        }
        return {name: round(value, 1) for name, value in (means | memory | self.read_gpu()).items()}


def _gpu_reader(device: torch.device) -> Callable[[], dict[str, float]]:
    """Return a function that reads the values of the GPU that this rank trains on.

    It returns none if there is no such GPU or no `pynvml`.
    """
    if device.type != "cuda":
        return dict
    try:
        import pynvml

        pynvml.nvmlInit()
        # By its UUID: CUDA_VISIBLE_DEVICES renumbers what torch sees, and NVML counts all GPUs of the machine.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        number = pynvml.nvmlDeviceGetIndex(handle)
    except Exception as error:  # NVML's errors are known only once it can be imported
        log.info("no GPU metrics: %s: %s", type(error).__name__, error)
        return dict
    return lambda: _gpu_values(pynvml, handle, f"gpu_{number}")


def _gpu_values(pynvml: Any, handle: Any, name: str) -> dict[str, float]:
    values = {}
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        values[f"{name}_memory_usage_percentage"] = memory.used / memory.total * 100
        values[f"{name}_memory_usage_megabytes"] = memory.used / 1e6
    with contextlib.suppress(pynvml.NVMLError):
        values[f"{name}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with contextlib.suppress(pynvml.NVMLError):
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        values[f"{name}_power_usage_watts"] = watts
        values[f"{name}_power_usage_percentage"] = watts / (pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000) * 100
    return values
