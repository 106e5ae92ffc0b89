"""One system that trains, in a process of its own."""

from collections.abc import Callable
from typing import Any

import torch
from real_case import RealModel
from shapes import PROFILES, SHAPES, fingerprint, triples
from turns import serve


def prepare(task: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return the function that runs a step, and its description."""
    dtype = torch.bfloat16 if task["bf16"] else torch.float32
    count = task["pairs_per_step"] * task["steps"]
    shape: Any
    if "model" in task:
        shape = RealModel(task["model"])
        pairs = shape.triples(task["pairs"], count, longest=task["longest"])
    else:
        shape = SHAPES[task["shape"]]
        pairs = triples(PROFILES[task["profile"]], count, shape.vocabulary, longest=task["longest"], seed=task["seed"])
    few = pairs[: task["pairs_per_step"]]
    if task["system"] == "utilisation":
        from utilisation import utilisation

        return lambda: None, utilisation(shape, few, dtype=dtype, max_tokens=task["max_tokens"])
    if task["system"] == "gate":
        from exactness import error_of_trl, exactness, real_exactness

        if isinstance(shape, RealModel):
            return lambda: None, {"exact": real_exactness(shape, few, task["longest"])}
        exact = exactness(shape, few, bf16=task["bf16"])
        if task["bf16"]:
            exact["gradient, TRL"] = error_of_trl(shape, few, task["longest"])
            assert exact["gradient, one pack"] <= 1.5 * exact["gradient, TRL"], exact
        return lambda: None, {"exact": exact}
    if task["system"] == "ours":
        from ours import Ours

        ours = Ours(
            shape,
            pairs,
            dtype=dtype,
            pairs_per_step=task["pairs_per_step"],
            max_tokens=task["max_tokens"],
            rung=task.get("rung"),
            lora_rank=task.get("lora_rank", 0),
        )
        return ours.step, {"prepared": 0.0}
    from peers import Peer

    size, longest, tuned = task["pairs_per_step"], task["longest"], task.get("tuned")
    weights = torch.bfloat16 if tuned and tuned["weights"] == "bf16" else torch.float32
    peer = Peer(
        shape,
        pairs,
        bf16=task["bf16"],
        pairs_per_step=size,
        longest=longest,
        tuned=tuned,
        weights=weights,
        lora_rank=task.get("lora_rank", 0),
    )
    assert fingerprint(peer.ids()) == fingerprint(pairs), "it trains on other tokens"
    return peer.step, {"prepared": peer.prepared}


if __name__ == "__main__":
    serve(prepare)
