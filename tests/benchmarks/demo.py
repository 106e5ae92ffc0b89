"""Where the time of `make demo` goes once its starter model is made: start-up, every stage, and what lies between them.

Runs `ratchet run conf/demo.yaml` as often as asked, each time in a fresh process on an empty folder of runs, from this
checkout and, with `--before COMMIT`, from that commit's too, one after the other in turn. Within a process it counts
the seconds of imports, of waiting for the Prefect server (which comes up while libraries are imported), of every stage,
of loading models, and of checking the saved one; the last two lie within stages. Both checkouts run once before, which
makes the starter model and the bytecode.

Writes `demo.json` and `demo.png` into `runs/bench`: medians and all samples. One run takes one to two minutes on two
cores.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import conditions, interval_of_median, write_result

from components.campaign.files import STAGES as ROUND_STAGES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NOW = "now"
STAGES = ("start", *ROUND_STAGES)
STARTUP, BETWEEN = "start-up", "between stages, and the end"
WITHIN = ("imports", "waiting for the server", "loading models", "checking the saved model")
"""Keys that are contained in the parts that add up."""


@contextlib.contextmanager
def checkout(commit: str, place: Path) -> Iterator[Path]:
    """Check out a commit's files into a temporary folder."""
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(place), commit], check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(place)], check=True)


def timed(tree: Path, config: str) -> dict[str, Any]:
    """Run the demo of a checkout.

    Gives the seconds of its parts, which add up to all, and of what lies within them.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="demo-") as place:
        out, log = Path(place) / "seconds.json", Path(place) / "said"
        command = [sys.executable, str(HERE / "rounds" / "timed_run.py"), str(tree), str(out), "run", config]
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")
        }
        environment |= {"PYTHONPATH": str(tree), "RATCHET_RUNS": str(Path(place) / "runs")}
        began = time.perf_counter()
        with log.open("w") as said:
            code = subprocess.run(
                command, cwd=tree, env=environment, stdout=said, stderr=subprocess.STDOUT, check=False
            ).returncode
        seconds = time.perf_counter() - began
        if code != 0:
            raise RuntimeError(f"the demo of {tree} ended with {code}: {log.read_text()[-2000:]}")
        found = json.loads(out.read_text())
    stages = {name: found.get(name, 0.0) for name in STAGES}
    parts = {STARTUP: found["until the first stage"]} | stages
    return {
        "seconds": seconds,
        "load": load,
        "parts": parts | {BETWEEN: seconds - sum(parts.values())},
        "within": {name: found.get(name, 0.0) for name in WITHIN},
    }


def summary(samples: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the medians of each checkout's runs, with the interval of the whole."""
    told: dict[str, Any] = {}
    for name in names:
        own = [sample for sample in samples if sample["of"] == name]
        told[name] = {"seconds": interval_of_median([sample["seconds"] for sample in own])} | {
            kind: {part: float(np.median([sample[kind][part] for sample in own])) for part in own[0][kind]}
            for kind in ("parts", "within")
        }
    return told


def draw(told: dict[str, Any], path: Path) -> None:
    """Draw one bar per checkout."""
    from matplotlib.figure import Figure

    from components.plots.figures import PAPER, styled, to_png

    colours = ("#8d99ae", "#1d5fd1", "#0f766e", "#94d2bd", "#b45309", "#be3455", "#5c4d7d", "#c9ccd1")
    parts = (STARTUP, *STAGES[1:], BETWEEN)
    names = list(told)[::-1]
    with styled(PAPER, "demo"):
        figure = Figure(figsize=(9, 1.6 + 0.8 * len(names)), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(names))
        for part, colour in zip(parts, colours, strict=True):
            seconds = np.array(
                [told[name]["parts"][part] + (told[name]["parts"]["start"] if part == STARTUP else 0) for name in names]
            )
            axes.barh(
                names,
                seconds,
                0.6,
                left=left,
                color=colour,
                edgecolor="white",
                linewidth=0.6,
                label=part.replace("_", " "),
            )
            left += seconds
        for row, seconds in enumerate(left):
            axes.text(seconds, row, f" {seconds:.0f} s", va="center")
        axes.set_xlim(right=1.1 * left.max())
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("seconds of the demo's three rounds, start of the process to its end")
        figure.legend(loc="outside upper left", ncols=4)
        to_png(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--before", metavar="COMMIT", help="compare with this commit's demo")
    parser.add_argument("--config", default="conf/demo.yaml")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each checkout")
    given = parser.parse_args()
    before = conditions()
    with contextlib.ExitStack() as stack:
        trees = {NOW: ROOT}
        if given.before:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="before-"))) / "checkout"
            trees = {given.before: stack.enter_context(checkout(given.before, place))} | trees
        for tree in trees.values():
            timed(tree, given.config)
        samples: list[dict[str, Any]] = []
        for number in range(given.repetitions):
            for name in list(trees) if number % 2 == 0 else list(trees)[::-1]:
                samples.append({"of": name, "repetition": number} | timed(trees[name], given.config))
                parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in samples[-1]["parts"].items())
                within = ", ".join(f"{part} {seconds:.1f}" for part, seconds in samples[-1]["within"].items())
                print(f"{name}: {samples[-1]['seconds']:.1f} s: {parts}; of which {within}", flush=True)
    told = summary(samples, list(trees))
    write_result(
        given.out / "demo.json", before=before, summary=told | {"details": {"config": given.config}}, samples=samples
    )
    draw(told, given.out / "demo.png")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
