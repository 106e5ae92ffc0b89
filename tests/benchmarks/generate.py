"""How fast answers are sampled, several a prompt.

Side by side with transformers, in one run, system after system, round after round.

Systems, each in a process of its own: ours as the pipeline runs it; transformers' `generate` as users write it (prompts
as they come, eight at a time, padded on the left, `num_return_sequences`); `generate` tuned (prompts by length, the
fastest batch and cache); its continuous batching, `generate_batch`, tuned (the fastest page and number of rows); and
vLLM, where its command is on the PATH, as `generation: {engine: vllm}` asks it, once it has loaded and compiled. All
sample the same model's whole distribution for the same prompts with the same thread count and allocator settings; in
the ragged cases answers end by an end token that the model itself gives a probability at every step. Before any timing
the answers are checked, and the run ends where that fails: the most likely tokens in fp32 are those of `generate`, and
log-probabilities, lengths and endings of samples have the same means in each precision.

Ratios are of tokens a second, the end token included; their intervals are bootstrap intervals over the repetitions.

Writes `generate.json` and `generate.png` into `runs/bench`. The default takes about 25 minutes on two cores.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import conditions, write_result
from shapes import SHAPES
from turns import Worker, interleaved

GENERATION = Path(__file__).resolve().parent / "generation"
sys.path[:0] = [str(GENERATION), str(GENERATION.parents[2])]

from cases import CASES, MADE_UP, save_policy  # noqa: E402

from components.models import vllm  # noqa: E402

DEFAULT, TUNED, CONTINUOUS, VLLM = "generate, default", "generate, tuned", "generate_batch, tuned", "vLLM"
OTHERS = (DEFAULT, TUNED, CONTINUOUS, VLLM)
USUAL = {"batch": 8, "cache": "dynamic", "by_length": False}


def system(task: dict[str, Any], name: str, settings: Sequence[dict[str, Any]]) -> Worker:
    """Start a system in its own process; it samples once with each of these settings."""
    return Worker(GENERATION / "worker.py", task | {"system": name, "settings": settings})


def tuned(task: dict[str, Any], name: str, tries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest of some settings, by one repetition each with responses half as long, after one that warms up.

    None where all fail.
    """
    worker = system(task | {"max_new_tokens": task["max_new_tokens"] // 2}, name, [tries[0], *tries])
    worker.step()
    made = [{"settings": settings} | worker.step() for settings in tries]
    worker.stop()
    well = [place for place, one in enumerate(made) if "error" not in one]
    best = max(well, key=lambda place: made[place]["tokens"] / made[place]["seconds"], default=None)
    return {"settings": None if best is None else tries[best], "tried": made}


def generate_tries(prompts: int) -> list[dict[str, Any]]:
    """Return batches up to all prompts, each with the caches that run without compiling."""
    batches = sorted({min(batch, prompts) for batch in (8, 16, 32, 64)})
    return [{"batch": batch, "cache": cache, "by_length": True} for cache in ("dynamic", "static") for batch in batches]


def generate_batch_tries(rows: int) -> list[dict[str, Any]]:
    """Return settings to try: more rows make the products larger, and also the dense mask over all rows' positions."""
    several = sorted({min(most, rows) for most in (8, 32)})
    return [{"page": page, "rows": most, "tokens": 1024} for page in (32, 256) for most in several]


def rate(samples: Sequence[dict[str, Any]]) -> float:
    """Return the tokens per second over some repetitions."""
    return float(sum(one["tokens"] for one in samples) / sum(one["seconds"] for one in samples))


def ratio(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return our tokens per second over the peer's, with the 95 % bootstrap interval over repetitions."""
    chance = np.random.default_rng(1)

    def drawn(samples: Sequence[dict[str, Any]]) -> float:
        return rate([samples[place] for place in chance.integers(len(samples), size=len(samples))])

    low, high = np.percentile([drawn(ours) / drawn(theirs) for _ in range(2000)], [2.5, 97.5])
    return {"ratio": rate(ours) / rate(theirs), "low": float(low), "high": float(high), "n": len(ours)}


def compare(task: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Measure all systems on one case in one precision."""
    rows = task["prompts"] * CASES[task["case"]].samples
    found = {
        TUNED: tuned(task, "generate", generate_tries(task["prompts"])),
        CONTINUOUS: tuned(task, "generate_batch", generate_batch_tries(rows)),
    }
    chosen: dict[str, tuple[str, dict[str, Any]]] = {"ours": ("ours", {}), DEFAULT: ("generate", USUAL)}
    for name, kind in ((TUNED, "generate"), (CONTINUOUS, "generate_batch")):
        if found[name]["settings"] is None:
            print(f"{name} FAILED on {task['case']} with all settings: {found[name]['tried'][0]['error']}", flush=True)
        else:
            chosen[name] = (kind, found[name]["settings"])
    if vllm.executable():
        chosen[VLLM] = ("vllm", {})
    workers = {name: system(task, kind, [settings] * repeats) for name, (kind, settings) in chosen.items()}
    before = conditions()
    samples = interleaved(workers, repeats)
    for worker in workers.values():
        worker.stop()
    failed = [one for one in samples if "error" in one]
    if failed:
        raise RuntimeError(f"{failed[0]['system']} failed on {task['case']}: {failed[0]['error']}")
    timed = {name: [one for one in samples if one["system"] == name and not one["warm_up"]] for name in workers}
    return {
        "case": task["case"],
        "precision": "bf16" if task["bf16"] else "fp32",
        "tokens_per_second": {name: rate(own) for name, own in timed.items()},
        "tokens_per_cpu_second": {
            name: sum(one["tokens"] for one in own) / sum(one["cpu_seconds"] for one in own)
            for name, own in timed.items()
            if name != VLLM
        },
        "ratios": {name: ratio(timed["ours"], own) for name, own in timed.items() if name != "ours"},
        # vLLM computes in processes of its own.
        "peak_bytes": {
            name: max(one["peak_bytes"] for one in samples if one["system"] == name) for name in workers if name != VLLM
        },
        "tuned": found,
        "before": before,
        "samples": samples,
    }


def summary(compared: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the lowest lower ends over cases and precisions; None for systems that never ran."""
    lows = {name: [one["ratios"][name]["low"] for one in compared if name in one["ratios"]] for name in OTHERS}
    return {
        "vs_hf_best_low": min(one["low"] for case in compared for name, one in case["ratios"].items() if name != VLLM),
        "vs_generate_default_low": min(lows[DEFAULT]),
        "vs_generate_tuned_low": min(lows[TUNED], default=None),
        "vs_generate_batch_low": min(lows[CONTINUOUS], default=None),
        "vs_vllm_low": min(lows[VLLM], default=None),
        "failed": [
            f"{name}: {one['precision']} {one['case']}"
            for one in compared
            for name in lows
            if name not in one["ratios"]
        ],
    }


def plot(path: Path, compared: Sequence[dict[str, Any]]) -> None:
    """Draw ratios with intervals by case and precision, over our tokens per second."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name in OTHERS if any(name in one["ratios"] for one in compared)]
    precisions = sorted({one["precision"] for one in compared}, reverse=True)
    figure, axes = plt.subplots(
        1, len(precisions), figsize=(7 * len(precisions), 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, precision in zip(axes[0], precisions, strict=True):
        cases = [one for one in compared if one["precision"] == precision]
        for place, name in enumerate(shown):
            ran = [(at, one["ratios"][name]) for at, one in enumerate(cases) if name in one["ratios"]]
            middle = [one["ratio"] for _, one in ran]
            reach = [[one["ratio"] - one["low"] for _, one in ran], [one["high"] - one["ratio"] for _, one in ran]]
            bars = axis.bar(
                [at + (place - (len(shown) - 1) / 2) * 0.22 for at, _ in ran],
                middle,
                0.2,
                yerr=reach,
                capsize=3,
                label=name,
                color=f"C{place}",
            )
            axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
        labels = [
            f"{one['case'].replace('-', ', n = ')}\nours {one['tokens_per_second']['ours']:.0f}/s" for one in cases
        ]
        axis.axhline(1, color="black", linewidth=1)
        axis.set_xticks(range(len(cases)), labels)
        axis.set_title(f"{precision}: sampled tokens a second, ours over others' (95 % intervals)", fontsize=11)
    axes[0][0].set_ylabel("times as many tokens a second as")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument(
        "--cases",
        nargs="+",
        default=list(MADE_UP),
        choices=list(MADE_UP),
        metavar="NAME",
        help=f"of {', '.join(MADE_UP)}",
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--shape", default="tiny", choices=list(SHAPES))
    parser.add_argument(
        "--repeats", type=int, default=5, help="repetitions of each system, the first of which warms up"
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument(
        "--max-new-tokens", type=int, default=48, help="in the ragged cases answers end after half as many on average"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if not vllm.executable():
        print(f"vLLM is left out: it is not installed ({vllm.INSTALL})", flush=True)
    before, compared, gates = conditions(), [], {}
    with tempfile.TemporaryDirectory() as policy:
        save_policy(SHAPES[given.shape], Path(policy))
        task = {
            "policy": policy,
            "threads": given.threads,
            "shape": given.shape,
            "prompts": given.prompts,
            "max_new_tokens": given.max_new_tokens,
            "seed": 1,
        }
        for precision in given.precisions:
            checked = system(task | {"bf16": precision == "bf16"}, "gate", [])
            gates[precision] = checked.ready
            print(f"{precision}: same answers: {json.dumps(gates[precision])}", flush=True)
            checked.stop()
        for precision in given.precisions:
            for case in given.cases:
                compared.append(compare(task | {"case": case, "bf16": precision == "bf16"}, given.repeats))
                told = {
                    name: f"{one['ratio']:.2f} ({one['low']:.2f}-{one['high']:.2f})"
                    for name, one in compared[-1]["ratios"].items()
                }
                best = {name: one["settings"] for name, one in compared[-1]["tuned"].items()}
                rates = {name: round(value) for name, value in compared[-1]["tokens_per_second"].items()}
                print(f"{precision} {case}: times as fast {told}; tokens/s {rates}; tuned {best}", flush=True)
                result = summary(compared)
                details = {"details": {"gate": gates, "settings": task}}
                write_result(given.out / "generate.json", before=before, summary=result | details, samples=compared)
                plot(given.out / "generate.png", compared)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
