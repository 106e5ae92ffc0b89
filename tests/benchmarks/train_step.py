"""How fast and how exact the training step is: beside TRL, in one run, system after system, step after step.

Systems, each in a process of its own: ours as the pipeline runs it (DeepSpeed engine, reference pass over the step's
pairs counted); TRL 1.16 with its defaults (at the run's precision); TRL 1.16 tuned (no gradient checkpointing, grouped
by length, the fastest micro-batch, reference beforehand where that is faster); TRL 1.10, the last with full logits,
tuned alike. All get the same model, the same pairs in every step, thread count and allocator settings. Before any
timing the step's exactness is checked, and the run ends where it fails.

Ratios are of the mean time of a step; their intervals are bootstrap intervals over the steps, a step of all systems at
a time.

Writes `train.json` and `train.png` into `runs/bench`. The default takes one to two hours on two cores: five to
twelve minutes a profile and precision.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import conditions, ratio_of_paired_means, write_result
from shapes import PROFILES, SHAPES, WORST, triples, unique_flops
from turns import Worker, interleaved

LAST_FULL_LOGITS = "1.10.0"
DEFAULT, TUNED, TUNED_OLD = "TRL 1.16 default", "TRL 1.16 tuned", f"TRL {LAST_FULL_LOGITS} tuned"
LONGEST = 1024
"""Most tokens of prompt and response; TRL's default."""
WIDE = "small"
"""Shape at which the utilisation is measured too: the width and the vocabulary of Qwen2.5-0.5B."""
RUNGS = ("full logits", "head on answers", "packed", "shared prompts", "fast products", "cached reference")
TUNING_STEPS = 3
"""Steps of each setting that is tried, the first of which warms up."""


def system(task: dict[str, Any], packages: Path | None = None) -> Worker:
    """Start a system in its own process."""
    return Worker(Path(__file__).resolve().parent / "training" / "worker.py", task, packages)


def install_old(place: Path) -> Path:
    """Install the last TRL with full logits into a folder of its own, and return the folder."""
    if not (place / "trl").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(place),
            f"trl=={LAST_FULL_LOGITS}",
        ]
        subprocess.run(command, check=True)
    return place


def tuned(task: dict[str, Any], packages: Path | None, micro_batches: Sequence[int]) -> dict[str, Any]:
    """Return the fastest settings.

    The micro-batch, then the reference beforehand, and in bf16 weights in bf16 (without fp32 ones beside them).
    """
    plain = {"precompute": False, "by_length": True, "weights": "fp32"}
    best = fastest(task, packages, [plain | {"micro_batch": micro_batch} for micro_batch in micro_batches])
    precisions = ["fp32", "bf16"] if task["bf16"] else ["fp32"]
    others = [
        best | {"precompute": precompute, "weights": weights} for precompute in (False, True) for weights in precisions
    ]
    return fastest(task, packages, others)


def fastest(task: dict[str, Any], packages: Path | None, tries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings with the fewest seconds per step, measured in turn.

    One after the other, the machine's load would choose.
    """
    workers = {
        str(number): system(task | {"system": "trl", "tuned": one, "steps": TUNING_STEPS}, packages)
        for number, one in enumerate(tries)
    }
    samples = interleaved(workers, TUNING_STEPS)
    taken = []
    for name, worker in workers.items():
        steps = [one["seconds"] for one in samples if one["system"] == name and not one["warm_up"]]
        taken.append(float(np.mean(steps)) + worker.ready["prepared"] / TUNING_STEPS)
        worker.stop()
    return tries[int(np.argmin(taken))]


def ratio(samples: Sequence[dict[str, Any]], peer: str) -> dict[str, float]:
    """Return the mean time of the peer's steps over that of ours over the same pairs, step by step.

    Preparation is in the peer's steps.
    """
    timed = [
        {one["step"]: one["seconds"] for one in samples if one["system"] == name and not one["warm_up"]}
        for name in ("ours", peer)
    ]
    return ratio_of_paired_means(list(timed[1].values()), [timed[0][step] for step in timed[1]])


def compare(task: dict[str, Any], old: Path, micro_batches: Sequence[int]) -> dict[str, Any]:
    """Measure all systems on one profile in one precision."""
    best, best_old = tuned(task, None, micro_batches), tuned(task, old, micro_batches)
    workers = {
        "ours": system(task | {"system": "ours"}),
        DEFAULT: system(task | {"system": "trl"}),
        TUNED: system(task | {"system": "trl", "tuned": best}),
        TUNED_OLD: system(task | {"system": "trl", "tuned": best_old}, old),
    }
    before = conditions()
    samples = interleaved(workers, task["steps"])
    for sample in samples:
        sample["seconds"] += workers[sample["system"]].ready["prepared"] / task["steps"]
    for worker in workers.values():
        worker.stop()
    peaks = {name: max(one["peak_bytes"] for one in samples if one["system"] == name) for name in workers}
    return {
        "profile": task["profile"],
        "precision": "bf16" if task["bf16"] else "fp32",
        "ratios": {name: ratio(samples, name) for name in workers if name != "ours"},
        "peak_bytes": peaks,
        "tuned": {TUNED: best, TUNED_OLD: best_old},
        "before": before,
        "samples": samples,
    }


def ladder(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure our step with one more feature at every rung."""
    workers = {rung: system(task | {"system": "ours", "rung": number}) for number, rung in enumerate(RUNGS)}
    samples = interleaved(workers, task["steps"])
    means: dict[str, float] = {}
    for rung, worker in workers.items():
        means[rung] = float(
            np.mean([one["seconds"] for one in samples if one["system"] == rung and not one["warm_up"]])
        )
        worker.stop()
    first = means[RUNGS[0]]
    return [{"rung": rung, "seconds": mean, "times_faster": first / mean} for rung, mean in means.items()]


def summary(compared: Sequence[dict[str, Any]], utilisation: dict[str, float]) -> dict[str, Any]:
    """Return the lowest lower ends over the profiles, the worst case apart; None for what was not measured."""
    real = [one for one in compared if one["profile"] != WORST]
    lows = {name: [one["ratios"][name]["low"] for one in real] for name in (DEFAULT, TUNED, TUNED_OLD)}
    worst = [one["ratios"][name]["low"] for one in compared if one["profile"] == WORST for name in one["ratios"]]
    return {
        "vs_trl_default_low": min(lows[DEFAULT], default=None),
        "vs_trl_tuned_low": min(lows[TUNED] + lows[TUNED_OLD], default=None),
        "worst_case_low": min(worst, default=None),
        "memory_ratio": max(one["peak_bytes"]["ours"] / one["peak_bytes"][DEFAULT] for one in compared),
        "gemm_utilisation": min(utilisation.values()),
        "gemm_utilisation_of": utilisation,
    }


def plot(path: Path, compared: Sequence[dict[str, Any]], rungs: Sequence[dict[str, Any]]) -> None:
    """Draw ratios with intervals by profile and precision, and the ladder."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    precisions = sorted({one["precision"] for one in compared}, reverse=True)
    widths = (*[2] * len(precisions), 1.4)
    figure, axes = plt.subplots(1, len(widths), figsize=(3 * sum(widths), 5), width_ratios=widths, layout="constrained")
    for axis, precision in zip(axes, precisions, strict=False):
        rows = [one for one in compared if one["precision"] == precision]
        for place, name in enumerate((DEFAULT, TUNED, TUNED_OLD)):
            ratios = [one["ratios"][name] for one in rows]
            middle = [one["ratio"] for one in ratios]
            reach = [[one["ratio"] - one["low"] for one in ratios], [one["high"] - one["ratio"] for one in ratios]]
            axis.bar(np.arange(len(rows)) + (place - 1) * 0.27, middle, 0.25, yerr=reach, capsize=3, label=name)
        axis.axhline(1, color="black", linewidth=1)
        axis.set_xticks(range(len(rows)), [one["profile"] for one in rows], rotation=20)
        axis.set_title(f"{precision}: seconds of a step, TRL over ours")
        axis.set_ylabel("times faster than TRL")
        axis.legend(frameon=False)
    axes[-1].barh([one["rung"] for one in rungs][::-1], [one["times_faster"] for one in rungs][::-1], color="tab:green")
    axes[-1].set_title("our step, rung by rung (hh-rlhf, fp32)")
    axes[-1].set_xlabel("times faster than the first")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--profiles", nargs="+", default=list(PROFILES), choices=list(PROFILES), metavar="NAME")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--shape", default="tiny", choices=list(SHAPES))
    parser.add_argument("--steps", type=int, default=6, help="steps of each system, the first of which warms up")
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[1, 2, 4], help="what a tuned TRL is tuned over"
    )
    parser.add_argument("--max-tokens", type=int, default=0, help="our training.micro_batch_tokens; 0 is its default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--packages", type=Path, default=Path("runs/bench/trl-full-logits"), help="where the older TRL is put"
    )
    given = parser.parse_args()
    before, old = conditions(), install_old(given.packages.resolve())
    task = {
        "threads": given.threads,
        "shape": given.shape,
        "pairs_per_step": given.pairs_per_step,
        "steps": given.steps,
        "longest": LONGEST,
        "seed": 1,
        "max_tokens": given.max_tokens,
    }
    exact, utilisation = {}, {}
    for precision in given.precisions:
        checked = system(task | {"system": "gate", "profile": "hh-rlhf", "bf16": precision == "bf16"})
        exact[precision] = checked.ready["exact"]
        print(f"{precision}: exact: {exact[precision]}", flush=True)
        checked.stop()
        for shape_name in dict.fromkeys((given.shape, WIDE)):
            measured = system(
                task | {"system": "utilisation", "shape": shape_name, "profile": "hh-rlhf", "bf16": precision == "bf16"}
            )
            utilisation[f"{precision} {shape_name}"] = measured.ready["share"]
            print(f"{precision} {shape_name}: utilisation {measured.ready}", flush=True)
            measured.stop()
    shape = SHAPES[given.shape]
    flops = {
        name: unique_flops(shape, triples(PROFILES[name], 8, shape.vocabulary, longest=LONGEST))
        for name in given.profiles
    }
    compared: list[dict[str, Any]] = []

    def write() -> dict[str, Any]:
        result = summary(compared, utilisation)
        details = {"exact": exact, "ladder": rungs, "unique_flops_of_a_forward": flops, "settings": task}
        write_result(given.out / "train.json", before=before, summary=result | {"details": details}, samples=compared)
        plot(given.out / "train.png", compared, rungs)
        return result

    rungs = ladder(task | {"profile": "hh-rlhf", "bf16": False})
    for rung in rungs:
        print(f"{rung['rung']}: {rung['seconds']:.2f} s, {rung['times_faster']:.2f}x", flush=True)
    for precision in given.precisions:
        for profile in given.profiles:
            compared.append(compare(task | {"profile": profile, "bf16": precision == "bf16"}, old, given.micro_batches))
            told = {
                name: f"{one['ratio']:.2f} ({one['low']:.2f}-{one['high']:.2f})"
                for name, one in compared[-1]["ratios"].items()
            }
            peaks = {name: f"{peak / 2**30:.2f} GiB" for name, peak in compared[-1]["peak_bytes"].items()}
            print(
                f"{precision} {profile}: times faster {told}; peak memory {peaks}; tuned {compared[-1]['tuned']}",
                flush=True,
            )
            write()
    print(json.dumps(write(), indent=1))


if __name__ == "__main__":
    main()
