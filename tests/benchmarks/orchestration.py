"""What the machinery around the model costs: seconds per round without the stages' own work, round after round.

The flows, the Prefect server, the MLflow store, the report and the artifacts are the real ones. One round is really
run; every later stage publishes a copy of that round's files at once. What is left of a round's time, less the copying,
is orchestration.

    python tests/benchmarks/orchestration.py --rounds 100 --out runs/bench
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from measuring import conditions, interval_of_median, write_result

SOURCE = "source"
STUBBED = ("start", "generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")


def settings(campaign: str, model: Path, rounds: int) -> Any:
    """Return a campaign that is small wherever its size concerns the model."""
    from components.config import CampaignConfig

    return CampaignConfig.model_validate(
        {
            "campaign": campaign,
            "num_rounds": rounds,
            "policy": {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40},
            "prompts": {"per_round": 24, "num_held_out": 48},
            "generation": {"batch_size": 48},
            "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
            "training": {"learning_rate": 3e-4, "epochs": 2, "pairs_per_step": 2, "micro_batch_pairs": 2},
            "gate": {"max_unfinished_increase": 1.0},
        }
    )


class Copies:
    """Stages that publish copies of the source campaign's round 1 under other digests, and sum the seconds it takes."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.seconds: dict[str, float] = defaultdict(float)

    def install(self) -> None:
        """Put the copies in the place of the stages' doors."""
        from components.runtime import launch

        for name in STUBBED:
            module = f"copied_{name}"
            sys.modules[module] = SimpleNamespace(run=self._door(name))  # type: ignore[assignment]
            launch.STAGES[name] = dataclasses.replace(launch.STAGES[name], module=module)

    def _door(self, name: str) -> Any:
        def run(request: Any, out: Path) -> None:
            began = time.monotonic()
            here = out.parent.name
            shutil.copytree(
                self.source / ("round-000" if name == "start" else "round-001") / name, out, dirs_exist_ok=True
            )
            (out / "MANIFEST.json").unlink()
            getattr(self, f"_{name}", lambda out, number: None)(out, int(here.removeprefix("round-")))
            self.seconds[here] += time.monotonic() - began

        return run

    @staticmethod
    def _dpo_train(out: Path, number: int) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({"weight": torch.full((8,), float(number))}, out / "model" / "model.safetensors")
        trained = json.loads((out / "train.json").read_text())
        (out / "train.json").write_text(json.dumps(trained | {"policy_digest": f"{number:064x}"}))

    @staticmethod
    def _promote(out: Path, number: int) -> None:
        decision = json.loads((out / "decision.json").read_text())
        (out / "decision.json").write_text(json.dumps(decision | {"promoted": number % 3 != 0}))


class Clock:
    """Note the start of each round, the processor time of this process and its children so far, and the load.

    Seconds on the clock say little on a machine that others use; processor seconds do.
    """

    def __init__(self) -> None:
        self.rounds: dict[str, tuple[float, float, float]] = {}

    def began(self, round: str, stage: str) -> None:
        if round != "round-000" and round not in self.rounds:
            self.rounds[round] = (time.monotonic(), processor_seconds(), os.getloadavg()[0])

    def advanced(self, done: int, total: int, text: str) -> None:
        pass

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        pass


def processor_seconds() -> float:
    """Return the processor seconds of this process and its living children, and so of the Prefect server."""
    total = 0.0
    this_process = psutil.Process()
    for process in (this_process, *this_process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(rounds: int, place: Path) -> list[dict[str, float]]:
    """Run the source campaign for one round, then the copied one, and return one sample per round, in order.

    The last round has no successor that would mark its end, so one more is run.
    """
    from components.builtin.starter import build_starter
    from components.runtime import progress
    from flows.iterative_dpo import iterative_dpo
    from flows.servers.temporary import prefect_server

    build_starter(place / "starter", steps=150)
    with prefect_server():
        iterative_dpo(settings(SOURCE, place / "starter", 1))
        copies, clock = Copies(place / "runs" / SOURCE), Clock()
        copies.install()
        with progress.reporting_to(clock):
            iterative_dpo(settings("copied", place / "starter", rounds + 1))
    begun = sorted(clock.rounds.items())
    samples = []
    for (name, (began, used, _)), (_, (ended, used_after, load)) in itertools.pairwise(begun):
        number = int(name.removeprefix("round-"))
        sample = {"seconds": ended - began - copies.seconds[name], "processor_seconds": used_after - used}
        samples.append({"round": number, **sample, "load": load})
    return samples


def summary(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Return the median with its interval, the largest, and the growth per round.

    The median of all pairs' slopes (Theil and Sen) with its interval.
    """
    from scipy.stats import theilslopes

    rounds = [sample["round"] for sample in samples]
    told: dict[str, Any] = {}
    for name in ("seconds", "processor_seconds"):
        values = [sample[name] for sample in samples]
        growth = theilslopes(values, rounds, 0.95)
        tenth = max(1, len(values) // 10)
        told[name] = {
            **interval_of_median(values),
            "min": min(values),
            "max": max(values),
            "first_tenth": interval_of_median(values[:tenth]),
            "last_tenth": interval_of_median(values[-tenth:]),
            "growth_per_100_rounds": {
                "value": 100 * growth.slope,
                "low": 100 * growth.low_slope,
                "high": 100 * growth.high_slope,
            },
        }
    return told


def draw(samples: list[dict[str, float]], told: dict[str, Any], path: Path) -> None:
    """Draw the seconds of each round."""
    from matplotlib.figure import Figure

    from components.plots.figures import PAPER, styled, to_png

    with styled(PAPER, "orchestration"):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.subplots()
        rounds = [sample["round"] for sample in samples]
        for name, label, colour in (
            ("seconds", "seconds beyond the stages' own work", PAPER.challenger),
            ("processor_seconds", "processor seconds, with the Prefect server's", PAPER.champion),
        ):
            axes.plot(
                rounds,
                [sample[name] for sample in samples],
                ".",
                color=colour,
                label=f"{label} (median {told[name]['median']:.2f})",
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("round")
        axes.set_ylabel("seconds")
        axes.legend()
        to_png(figure, path)


def use_own_stores(place: Path) -> None:
    """Use campaigns, an MLflow and a Prefect database of this measurement alone, as quietly as `ratchet run`."""
    os.environ.update(
        {
            "RATCHET_RUNS": str(place / "runs"),
            "PREFECT_HOME": str(place / "prefect"),
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "components",
            "DO_NOT_TRACK": "true",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "OMP_NUM_THREADS": "1",
        }
    )
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orchestration-") as place:
        use_own_stores(Path(place))
        before = conditions()
        samples = measure(arguments.rounds, Path(place))
        told = summary(samples)
        write_result(arguments.out / "orchestration.json", before=before, summary=told, samples=samples)
        draw(samples, told, arguments.out / "orchestration.png")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
