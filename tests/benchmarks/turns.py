"""Systems that are measured against each other.

Each in a process of its own, so that they take turns and memory is each one's.

Both ends of the line between them: the driver's `Worker`, which asks for one step at a time, and `serve`, which a
worker's script runs.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}


class Worker:
    """A system in its process.

    Args:
        script: What runs there; it calls `serve`.
        task: What the script is told before its first step; `threads` in it also holds for threads that a library
            starts.
        packages: A folder whose packages come before those that are installed.
    """

    def __init__(self, script: Path, task: dict[str, Any], packages: Path | None = None) -> None:
        path = [str(packages)] if packages else []
        search = os.pathsep.join([*path, str(HERE), str(HERE.parents[1])])
        environment = os.environ | OFFLINE | {"PYTHONPATH": search, "OMP_NUM_THREADS": str(task["threads"])}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.ready = self._ask(task)

    def _ask(self, question: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"a system ended: {self.errors.read()[-2000:]}")
        answered: dict[str, Any] = json.loads(line)
        return answered

    def step(self) -> dict[str, Any]:
        """Run one step, and return its seconds, the memory so far and what else the system reports."""
        return self._ask(True)

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def interleaved(workers: dict[str, Worker], steps: int) -> list[dict[str, Any]]:
    """Run one step of every system in turn, forwards and backwards; the first step of each warms it up."""
    samples: list[dict[str, Any]] = []
    for number in range(steps):
        names = list(workers) if number % 2 == 0 else list(workers)[::-1]
        for name in names:
            made = workers[name].step()
            samples.append({"system": name, "step": number, "warm_up": number == 0, "load": os.getloadavg()[0]} | made)
    return samples


def serve(prepare: Callable[[dict[str, Any]], tuple[Callable[[], Any], dict[str, Any]]]) -> None:
    """Read the task from the first line, then run a step for every further line.

    Args:
        prepare: Gives, for a task, what makes a step and what is told beforehand. A step may return a dict, which is
            told beside its seconds (wall and CPU) and the process's highest memory in bytes.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=out, flush=True)

    import torch

    from components.runtime.machine import keep_freed_memory

    task = json.loads(sys.stdin.readline())
    torch.set_num_threads(task["threads"])
    keep_freed_memory()
    step, told = prepare(task)
    answer(told)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        made = step()
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer(
            {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}
            | (made if isinstance(made, dict) else {})
        )
    os._exit(0)
