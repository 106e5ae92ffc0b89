"""A real model's training step beside TRL's, and its sampling beside transformers' `generate`, on real preferences.

Everything is as in `train_step.py` and `generate.py`, in bf16: systems in processes of their own that take turns, TRL
and `generate` each at the fastest of the settings that are tried, the same tokens in every step. The adapter has rank
16 on all linear layers. Before any timing our step's gradients are compared with a plain fp32 one's: equal in fp32, and
in bf16 as near as TRL's.

Writes `real.json` into `runs/bench`. Takes half an hour on two cores with a model of 135 million weights.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from generate import TUNED as GENERATE_TUNED
from generate import generate_tries, rate
from generate import ratio as sampling_ratio
from generate import system as sampling_system
from generate import tuned as sampling_tuned
from measuring import conditions, write_result
from train_step import fastest, ratio, system
from turns import interleaved

TRL = "TRL 1.16 tuned"
LORA_RANK = 16


def train(task: dict[str, Any], micro_batches: Sequence[int]) -> dict[str, Any]:
    """Measure a step of ours beside TRL's best."""
    plain = {"precompute": False, "by_length": True, "weights": "bf16"}
    best = fastest(task, None, [plain | {"micro_batch": size} for size in micro_batches])
    others = [
        best | {"precompute": precompute, "weights": weights}
        for precompute in (False, True)
        for weights in ("fp32", "bf16")
    ]
    best = fastest(task, None, others)
    workers = {"ours": system(task | {"system": "ours"}), TRL: system(task | {"system": "trl", "tuned": best})}
    before = conditions()
    samples = interleaved(workers, task["steps"])
    for sample in samples:
        sample["seconds"] += workers[sample["system"]].ready["prepared"] / task["steps"]
    for worker in workers.values():
        worker.stop()
    peaks = {name: max(one["peak_bytes"] for one in samples if one["system"] == name) for name in workers}
    return {
        "ratio": ratio(samples, TRL),
        "peak_bytes": peaks,
        "memory_ratio": peaks["ours"] / peaks[TRL],
        "tuned": best,
        "before": before,
        "samples": samples,
    }


def sample(task: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Measure sampling beside `generate` at its best."""
    found = sampling_tuned(task, "generate", generate_tries(task["prompts"]))
    chosen = {"ours": ("ours", {}), GENERATE_TUNED: ("generate", found["settings"])}
    workers = {name: sampling_system(task, kind, [settings] * repeats) for name, (kind, settings) in chosen.items()}
    before = conditions()
    samples = interleaved(workers, repeats)
    for worker in workers.values():
        worker.stop()
    timed = {name: [one for one in samples if one["system"] == name and not one["warm_up"]] for name in workers}
    return {
        "ratio": sampling_ratio(timed["ours"], timed[GENERATE_TUNED]),
        "tokens_per_second": {name: rate(own) for name, own in timed.items()},
        "peak_bytes": {name: max(one["peak_bytes"] for one in samples if one["system"] == name) for name in workers},
        "tuned": found,
        "before": before,
        "samples": samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="local directory of a chat model")
    parser.add_argument("--pairs", required=True, help="preference pairs: a file, or a hub name")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--steps", type=int, default=6, help="steps of each system, the first of which warms up")
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--longest", type=int, default=384, help="tokens of the longest prompt and answer")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--prompts", type=int, default=32, help="prompts that are sampled from, four answers to each")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--parts", nargs="+", default=["lora", "all weights", "sample"])
    given = parser.parse_args()
    before = conditions()
    shared = {"threads": given.threads, "model": given.model, "pairs": given.pairs, "bf16": True, "seed": 1}
    task = shared | {
        "pairs_per_step": given.pairs_per_step,
        "steps": given.steps,
        "longest": given.longest,
        "max_tokens": 0,
    }
    checked = system(task | {"system": "gate", "steps": 1, "pairs_per_step": 2})
    summary: dict[str, Any] = {"exact": checked.ready["exact"]}
    checked.stop()
    print(f"exact: {summary['exact']}", flush=True)
    for part in given.parts:
        if part == "sample":
            asked = {"case": "real-4", "policy": given.model, "prompts": given.prompts}
            summary[part] = sample(shared | asked | {"max_new_tokens": given.max_new_tokens}, given.repeats)
        else:
            summary[part] = train(task | {"lora_rank": LORA_RANK if part == "lora" else 0}, given.micro_batches)
        one = summary[part]
        shown = f"{one['ratio']['ratio']:.2f} ({one['ratio']['low']:.2f}-{one['ratio']['high']:.2f})"
        peaks = {name: f"{peak / 2**30:.2f} GiB" for name, peak in one["peak_bytes"].items()}
        print(f"{part}: times as fast {shown}; peak memory {peaks}; tuned {json.dumps(one['tuned'])[:300]}", flush=True)
        write_result(given.out / "real.json", before=before, summary=summary, samples=[])


if __name__ == "__main__":
    main()
