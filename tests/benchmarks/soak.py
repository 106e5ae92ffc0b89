"""Many rounds of one campaign beside the background servers, with a fault in every third, and what they leave behind.

`ratchet up` starts the servers once. Then each round is one start of the campaign with `num_rounds: 1`, as a nightly
schedule makes it. Every third is disturbed in its middle: killed with all that it started, or asked to end; the same
command then finishes it. After each round this measures memory and open files of the servers, the peak of the start,
the sizes of both databases, temporary files, and the seconds of an undisturbed round.

A series is flat if the median of its last rounds exceeds that of the rounds from the fifth on by no more than its
tolerance; a database is flat if a round adds no more bytes at the end than at the beginning.

Writes `soak.json` and `soak.png` into `runs/bench`.
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml
from measuring import conditions, write_result

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]
FIRST = 5
"""Round from which on the series is compared with its end; what is loaded once is loaded by then."""
TOLERANCES = {
    "server_bytes": 0.15,
    "server_files": 0.1,
    "start_peak_bytes": 0.1,
    "temporary_files": 0.0,
    "half_written_files": 0.0,
    "seconds": 0.25,
}
DATABASES = ("mlflow_db_bytes", "prefect_db_bytes")
FAULTS = (signal.SIGKILL, signal.SIGTERM)


class Machine:
    """The servers, and the campaign that runs beside them."""

    def __init__(self, place: Path) -> None:
        from components.builtin.starter import build_starter
        from components.runtime.ports import free_port

        self.place, self.runs, self.temporary = place, place / "runs", place / "tmp"
        self.temporary.mkdir()
        build_starter(place / "model", steps=150)
        self.environment = {
            **os.environ,
            "RATCHET_RUNS": str(self.runs),
            "RATCHET_PREFECT_PORT": str(free_port()),
            "RATCHET_MLFLOW_PORT": str(free_port()),
            "RATCHET_LABEL_PORT": str(free_port()),
            "PREFECT_HOME": str(place / "prefect"),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(HERE.parents[1]),
        }
        settings = {
            "campaign": "soak",
            "num_rounds": 1,
            "policy": {
                "model": str(place / "model"),
                "dtype": "float32",
                "max_prompt_tokens": 64,
                "max_response_tokens": 40,
            },
            "prompts": {"per_round": 24, "num_held_out": 48},
            "generation": {"batch_size": 48},
            "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
            "training": {"epochs": 2, "pairs_per_step": 4, "micro_batch_pairs": 4, "checkpoint_every": 3},
            "gate": {"max_unfinished_increase": 1.0},
        }
        (place / "soak.yaml").write_text(yaml.safe_dump(settings))

    def ratchet(self, *arguments: str) -> None:
        """Run a command of ours to its end."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=self.place, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"ratchet {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")

    def start(self) -> subprocess.Popen[bytes]:
        """Start one more round."""
        command = [sys.executable, "-m", "flows.cli", "run", str(self.place / "soak.yaml")]
        with (self.place / "log.txt").open("ab") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self.place, stdout=log, stderr=log)

    def run(self) -> tuple[float, int]:
        """Run a round to its end; return its seconds and the peak memory of the start in bytes."""
        began, peak = time.monotonic(), 0
        child = psutil.Process(self.start().pid)
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            try:
                peak = max(peak, sum(each.memory_info().rss for each in (child, *child.children(recursive=True))))
            except psutil.NoSuchProcess:
                continue
            time.sleep(0.2)
        code = child.wait()
        if code != 0:
            raise SystemExit(f"a round ended with {code}: {(self.place / 'log.txt').read_text()[-2000:]}")
        return time.monotonic() - began, peak

    def disturb(self, number: int, fault: signal.Signals) -> None:
        """Start a round and end it in its training."""
        child = self.start()
        pattern = f"round-{number:03d}/checkpoints/*/step-*"
        while not list((self.runs / "soak").glob(pattern)):
            if child.poll() is not None:
                raise SystemExit(
                    f"round {number} ended before it was disturbed: {(self.place / 'log.txt').read_text()}"
                )
            time.sleep(0.02)
        child.send_signal(fault)
        child.wait()

    def servers(self) -> list[psutil.Process]:
        """Return the servers and the worker."""
        supervisord = psutil.Process(int((self.runs / ".services" / "supervisord.pid").read_text()))
        return [supervisord, *supervisord.children(recursive=True)]

    def measure(self) -> dict[str, Any]:
        """Return what the rounds so far have left."""
        servers = self.servers()
        return {
            "server_bytes": sum(each.memory_full_info().uss for each in servers),
            "server_files": sum(each.num_fds() for each in servers),
            "mlflow_db_bytes": size(self.runs / "mlflow.db"),
            "prefect_db_bytes": size(self.place / "prefect" / "prefect.db"),
            "temporary_files": sum(1 for _ in self.temporary.rglob("*")),
            "half_written_files": sum(1 for path in (self.runs / "soak").rglob(".*") if ".tmp" in path.name),
        }


def size(database: Path) -> int:
    """Return the bytes of a SQLite database with its journal."""
    return sum(path.stat().st_size for path in database.parent.glob(f"{database.name}*"))


def verdicts(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the rounds from the fifth on with the last ones, for each series."""
    counted = [sample for sample in samples if sample["round"] >= FIRST]
    width = max(1, len(counted) // 3)
    found: dict[str, Any] = {}
    for name, tolerance in TOLERANCES.items():
        values = [sample[name] for sample in counted if sample[name] is not None]
        first, last = statistics.median(values[:width]), statistics.median(values[-width:])
        found[name] = {"first": first, "last": last, "flat": last <= first * (1 + tolerance)}
    for name in DATABASES:
        growth = [later[name] - earlier[name] for earlier, later in itertools.pairwise(counted)]
        half = max(1, len(growth) // 2)
        first, last = statistics.mean(growth[:half]), statistics.mean(growth[-half:])
        found[name] = {"first_a_round": first, "last_a_round": last, "flat": last <= max(first * 1.25, first + 2**16)}
    return found


def plot(path: Path, samples: Sequence[dict[str, Any]]) -> None:
    """Draw each series over the rounds; rounds with a fault are marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [*TOLERANCES, *DATABASES]
    figure, axes = pyplot.subplots(len(names), 1, figsize=(8, 2 * len(names)), sharex=True)
    for axis, name in zip(axes, names, strict=True):
        shown = [sample for sample in samples if sample[name] is not None]
        axis.plot([sample["round"] for sample in shown], [sample[name] for sample in shown], marker=".")
        for sample in samples:
            if sample["fault"]:
                axis.axvline(sample["round"], color="tab:red", alpha=0.2)
        axis.set_title(name.replace("_", " "), fontsize=9, loc="left")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("round; red: with a fault")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the rounds and write what they left behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "runs" / "bench")
    options = parser.parse_args()
    if options.rounds < FIRST + 2:
        parser.error(f"--rounds must be at least {FIRST + 2}: the first {FIRST - 1} are not counted")
    before, samples = conditions(), []
    with tempfile.TemporaryDirectory(prefix="ratchet-soak-") as directory:
        machine = Machine(Path(directory))
        machine.ratchet("up")
        try:
            for number in range(1, options.rounds + 1):
                fault = FAULTS[number // 3 % len(FAULTS)] if number % 3 == 0 else None
                if fault is not None:
                    machine.disturb(number, fault)
                seconds, peak = machine.run()
                sample = {
                    "round": number,
                    "fault": fault.name if fault else None,
                    "seconds": None if fault else seconds,
                    "start_peak_bytes": peak,
                    **machine.measure(),
                }
                samples.append(sample)
                print(sample, flush=True)
        finally:
            machine.ratchet("down")
    summary = verdicts(samples)
    write_result(options.out / "soak.json", before=before, summary=summary, samples=samples)
    plot(options.out / "soak.png", samples)
    for name, verdict in summary.items():
        print(f"{name:20} {'flat' if verdict['flat'] else 'GROWS':6} {verdict}")
    if not all(verdict["flat"] for verdict in summary.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
