"""The training step on one GPU: is it exact there, how fast is it beside TRL, and how near to what the GPU can do.

Packed attention and the whole step are first held against plain fp32 ones; the run ends where they differ. Then, for
each shape (random weights, nothing is downloaded), all weights and LoRA, in bfloat16: our step with a reference pass
over its pairs, TRL with its defaults, and TRL tuned (no gradient checkpointing, grouped by length, its fastest
micro-batch, reference beforehand where that is faster). Each runs alone in a process of its own. Unique-token MFU
counts every prompt once, no padding and no recomputation, against the data sheet's dense bf16 rate and against the best
product of matrices measured in the same run. Last, sampled tokens a second.

What is not installed (TRL) or does not fit is skipped, and the result says why. Our side needs torch 2.11 or later,
transformers, peft, pydantic and this repository's files; neither DeepSpeed, Prefect, MLflow, datasets nor pandera, and
no installation of this package.

Writes `gpu.json` into `runs/bench`. `--device cpu --shapes micro` tries the script itself.
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
from measuring import conditions, ratio_of_means, write_result
from shapes import PROFILES, SHAPES, Shape, triples, unique_flops

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

DATA_SHEET = {"H100 80GB HBM3": 989e12, "H200": 989e12}
"""Dense bf16 operations a second by a part of the device's name; of the SXM modules."""
STATES = {"fp32 masters": 2 + 2 + 4 + 4 + 8, "all bf16": 2 + 2 + 4}
"""Bytes of a trained weight: itself and its gradient in bf16, the optimizer's weight, gradient and two moments in fp32;
or all in bf16."""
REFERENCE_BYTES = 2
FREE_SHARE = 0.1
"""Share of the device's memory that is kept for what the estimate leaves out."""
DEFAULT, TUNED = "TRL default", "TRL tuned"


def gib(number: float) -> str:
    return f"{number / 2**30:.1f} GiB"


def measured(task: dict[str, Any]) -> dict[str, Any]:
    """Return a worker's answer to a task."""
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if task["device"] == "cpu" else {})
    command = [sys.executable, str(HERE / "training" / "gpu_worker.py")]
    done = subprocess.run(command, input=json.dumps(task) + "\n", capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{task} ended with {done.returncode}: {done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def memory_plan(shape: Shape, *, trains_all: bool, max_tokens: int, memory: int) -> tuple[dict[str, Any] | None, str]:
    """Return how to keep the optimizer's state and how many tokens a micro-batch has, None if nothing fits.

    And the arithmetic.
    """
    told = []
    for state, each in STATES.items():
        weights = (each + REFERENCE_BYTES if trains_all else REFERENCE_BYTES) * shape.weights
        for tokens in (max_tokens, max_tokens // 2, max_tokens // 4):
            # Kept for the backward pass, estimated from the modules: two norms, in fp32 too, attention, and four of the
            # ffn's width.
            activations = tokens * shape.layers * (32 * shape.hidden + 8 * shape.ffn)
            told.append(
                f"{state}, {tokens} tokens: weights {gib(weights)} + activations {gib(activations)} of {gib(memory)}"
            )
            if weights + activations <= (1 - FREE_SHARE) * memory:
                return {"state": state, "max_tokens": tokens}, told[-1]
    return None, "; ".join(told)


def tuned(task: dict[str, Any], micro_batches: Sequence[int]) -> dict[str, Any] | None:
    """Return the fastest settings for these pairs, by two steps each; None if none ran."""
    tried: list[tuple[float, dict[str, Any]]] = []

    def attempt(settings: dict[str, Any]) -> None:
        found = measured(task | {"system": "trl", "tuned": settings, "warm_up": 1, "steps": 2})
        if "skipped" not in found:
            tried.append((float(np.mean(found["seconds"])), settings))

    for micro_batch in micro_batches:
        attempt({"micro_batch": micro_batch, "precompute": False, "by_length": True})
    if tried and not task["lora_rank"]:
        attempt(min(tried, key=lambda one: one[0])[1] | {"precompute": True})
    return min(tried, key=lambda one: one[0])[1] if tried else None


def speed(
    found: dict[str, Any], task: dict[str, Any], flops: float, tokens: float, peaks: dict[str, float | None]
) -> dict[str, Any]:
    """Summarise the seconds of steps."""
    low, median, high = np.percentile(found["seconds"], [25, 50, 75])
    mean = float(np.mean(found["seconds"]))
    return found | {
        "median_seconds": float(median),
        "interquartile_seconds": [float(low), float(high)],
        "least_seconds": min(found["seconds"]),
        "pairs_per_second": task["pairs_per_step"] / mean,
        "unique_tokens_per_second": tokens / mean,
        "unique_token_mfu": {name: flops / mean / peak if peak else None for name, peak in peaks.items()},
    }


def compare(
    task: dict[str, Any], systems: Sequence[str], micro_batches: Sequence[int], peaks: dict[str, float | None]
) -> dict[str, Any]:
    """Measure the systems on one shape, method and profile."""
    shape, count = SHAPES[task["shape"]], task["pairs_per_step"] * (task["warm_up"] + task["steps"])
    pairs = triples(PROFILES[task["profile"]], count, shape.vocabulary, longest=task["longest"])
    share = task["pairs_per_step"] / count
    # Three times a forward for the policy, twice where the base is frozen, and once for the reference.
    flops = unique_flops(shape, pairs) * (3 if task["lora_rank"] else 4) * share
    tokens = sum(len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in pairs) * share
    found: dict[str, dict[str, Any]] = {"ours": measured(task | {"system": "ours"})}
    if "trl" in systems:
        found[DEFAULT] = measured(task | {"system": "trl", "tuned": None})
        best = None if found[DEFAULT].get("skipped", "").startswith("not installed") else tuned(task, micro_batches)
        if best is not None:
            found[TUNED] = measured(task | {"system": "trl", "tuned": best}) | {"settings": best}
    told = {name: one if "skipped" in one else speed(one, task, flops, tokens, peaks) for name, one in found.items()}
    whole = "seconds" in told["ours"]
    ratios = {
        name: ratio_of_means(one["seconds"], told["ours"]["seconds"])
        for name, one in told.items()
        if whole and "seconds" in one
    }
    ratios.pop("ours", None)
    return {name: task[name] for name in ("shape", "lora_rank", "profile", "state", "max_tokens")} | {
        "systems": told,
        "times_faster": ratios,
    }


def show(case: dict[str, Any]) -> None:
    """Print one line per system."""
    for name, one in case["systems"].items():
        line = f"{case['shape']} {'LoRA' if case['lora_rank'] else 'full'} {case['profile']} {name}: "
        if "skipped" in one:
            print(f"{line}SKIPPED, {one['skipped']}", flush=True)
            continue
        shares = ", ".join(
            f"{share:.1%} of the {of}" for of, share in one["unique_token_mfu"].items() if share is not None
        )
        line += f"{one['median_seconds']:.3f} s a step, {one['pairs_per_second']:.1f} pairs/s, "
        line += f"unique-token MFU {shares}, {gib(one['peak_bytes'])}"
        if name in case["times_faster"]:
            ratio = case["times_faster"][name]
            line += f"; ours is {ratio['ratio']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) times as fast"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--shapes", nargs="+", default=["qwen2.5-1.5b", "llama-8b"], choices=list(SHAPES))
    parser.add_argument("--methods", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument(
        "--profiles", nargs="+", default=["ultrafeedback", "hh-rlhf"], choices=list(PROFILES), metavar="NAME"
    )
    parser.add_argument(
        "--systems", nargs="+", default=["ours", "trl"], choices=["ours", "trl"], help="ours is always measured"
    )
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pairs-per-step", type=int, default=32)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[4, 16], help="what a tuned TRL is tuned over")
    parser.add_argument(
        "--max-tokens", type=int, default=8192, help="our training.micro_batch_tokens; fewer where they do not fit"
    )
    parser.add_argument("--longest", type=int, default=1024, help="tokens of prompt and answer at most; TRL's default")
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument("--checked-shape", default="tiny", choices=list(SHAPES), help="for the check of exactness")
    parser.add_argument("--checked-pairs", type=int, default=8)
    parser.add_argument("--sampling", type=int, nargs=3, default=[64, 4, 128], metavar=("PROMPTS", "SAMPLES", "TOKENS"))
    given = parser.parse_args()
    before = conditions()
    task = {
        name: value
        for name, value in vars(given).items()
        if name in ("device", "precision", "warm_up", "steps", "pairs_per_step")
    }
    task |= {"max_tokens": given.max_tokens, "longest": given.longest}
    machine = measured(
        task | {"kind": "machine", "checked_shape": given.checked_shape, "checked_pairs": given.checked_pairs}
    )
    peak = f"{machine['peak_flops_measured'] / 1e12:.1f} TFLOPS"
    print(f"{machine['name']}, best product {peak}; exact: {machine['exact']}", flush=True)
    sheet = next((rate for name, rate in DATA_SHEET.items() if name in machine["name"]), None)
    peaks = {"data sheet": sheet, "measured product": machine["peak_flops_measured"]}
    cases: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    summary = {
        "machine": machine,
        "peaks": peaks,
        "skipped": skipped,
        "sampling": {},
        "settings": vars(given) | {"out": str(given.out)},
    }

    def write() -> None:
        write_result(given.out / "gpu.json", before=before, summary=summary, samples=cases)

    for shape in given.shapes:
        for method in given.methods:
            rank = given.lora_rank if method == "lora" else 0
            memory = machine["memory_bytes"]
            plan, arithmetic = memory_plan(
                SHAPES[shape], trains_all=not rank, max_tokens=given.max_tokens, memory=memory
            )
            print(f"{shape} {method}: {'SKIPPED, does not fit: ' if plan is None else ''}{arithmetic}", flush=True)
            if plan is None:
                skipped[f"{shape} {method}"] = arithmetic
                continue
            for profile in given.profiles:
                case = task | {"kind": "steps", "shape": shape, "lora_rank": rank, "profile": profile} | plan
                cases.append(compare(case, given.systems, given.micro_batches, peaks))
                show(cases[-1])
                write()  # what is measured stays, whatever comes
    prompts, samples, tokens = given.sampling
    asked = task | {"kind": "sampling", "prompts": prompts, "samples": samples, "new_tokens": tokens, "repeats": 3}
    for shape in given.shapes:
        result = summary["sampling"][shape] = measured(asked | {"shape": shape})
        fastest = {name: max(rates) for name, rates in result.get("tokens_per_second", {}).items()}
        print(f"{shape} sampling: {result.get('skipped') or fastest}")
    write()


if __name__ == "__main__":
    main()
