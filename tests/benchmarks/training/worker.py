"""One system in a process of its own, which makes a step whenever a line comes in: so that systems take turns, and memory is each one's."""

import json
import os
import resource
import sys
import time
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}
import torch
from shapes import PROFILES, SHAPES, Triple, fingerprint, triples

from components.launch import keep_freed_memory


def prepared(task: dict[str, Any], pairs: list[Triple]) -> tuple[Any, dict[str, Any]]:
    """What makes a step, and what is told of it beforehand."""
    shape, dtype = SHAPES[task["shape"]], torch.bfloat16 if task["bf16"] else torch.float32
    if task["system"] == "gate":
        from exactness import error_of_trl, exactness
        from utilisation import utilisation

        few = pairs[: task["pairs_per_step"]]
        exact = exactness(shape, few, bf16=task["bf16"])
        if task["bf16"]:
            exact["gradient, TRL"] = error_of_trl(shape, few, task["longest"])
            assert exact["gradient, one pack"] <= 1.5 * exact["gradient, TRL"], exact
        return None, {"exact": exact, "utilisation": utilisation(shape, few, dtype=dtype, max_tokens=task["max_tokens"])}
    if task["system"] == "ours":
        from ours import Ours

        ours = Ours(shape, pairs, dtype=dtype, pairs_per_step=task["pairs_per_step"], max_tokens=task["max_tokens"], rung=task.get("rung"))
        return ours.step, {"prepared": 0.0, "same_ids": True}
    from peers import Peer

    size, longest, tuned = task["pairs_per_step"], task["longest"], task.get("tuned")
    peer = Peer(shape, pairs, bf16=task["bf16"], pairs_per_step=size, longest=longest, tuned=tuned)
    return peer.step, {"prepared": peer.prepared, "same_ids": fingerprint(peer.ids()) == fingerprint(pairs)}


def main() -> None:
    """Reads the task from the first line, then steps."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=out, flush=True)

    task = json.loads(sys.stdin.readline())
    torch.set_num_threads(task["threads"])
    keep_freed_memory()
    count = task["pairs_per_step"] * task["steps"]
    pairs = triples(PROFILES[task["profile"]], count, SHAPES[task["shape"]].vocabulary, longest=task["longest"], seed=task["seed"])
    step, told = prepared(task, pairs)
    answer({"same_ids": True} | told)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer({"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak})
    os._exit(0)


if __name__ == "__main__":
    main()
