"""One measurement in a process of its own: the first line of its input is the task, one line of output the answer.

So that memory is each one's.
"""

import contextlib
import functools
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}
import torch
from ours import Ours
from plain_engine import PlainEngine
from shapes import EOS, PAD, PROFILES, SHAPES, Profile, fingerprint, triples

from components.config import TrainingConfig
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.runtime.machine import keep_freed_memory
from components.scoring.packed import attention as packed_attention
from components.scoring.packed.layout import Packed
from components.scoring.packed.logps import longest_packed
from components.scoring.padded import padded_token_logps

ATTENTION_LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Relative L2 error of packed attention, and of its gradients, against plain attention in fp32."""
HEADS = ((4, 4, 64), (12, 2, 128), (32, 8, 128))
"""Heads, key heads and head size of the shapes, and of a small one."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def wait(device: torch.device) -> None:
    """Return when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call, the device's work included."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def peak_bytes(device: torch.device) -> int:
    """Return the peak of allocated memory: of the device, or of this process if the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def product_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the highest rate of floating-point operations per second that a product of random matrices reaches."""
    rates = []
    for rows, inner, columns in ((8192, 8192, 8192), (16384, 4096, 14336), (8192, 1536, 8960)):
        small = 1 if device.type == "cuda" else 8
        sizes = rows // small, inner // small, columns // small
        a, b = (torch.randn(size, sizes[1], device=device).to(dtype) for size in (sizes[0], sizes[2]))
        times = [timed(lambda: a @ b.T, device) for _ in range(13)]  # noqa: B023
        rates.append(2 * sizes[0] * sizes[1] * sizes[2] / min(times[3:]))
    return max(rates)


def random_layout(chance: random.Random, device: torch.device, dtype: torch.dtype) -> Packed:
    """Return a few prompts with one to four responses each."""
    prompts, responses = [], []
    for first in range(chance.randint(1, 5)):
        prompt = [first, *chance.choices(range(100), k=chance.randint(0, 90))]
        for _ in range(chance.randint(1, 4)):
            prompts.append(prompt)
            responses.append(chance.choices(range(100), k=chance.randint(1, 90)))
    return Packed(prompts, responses, device, dtype)


def attention_error(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return the largest relative error of packed attention and of its gradients, over random layouts.

    Raises:
        AssertionError: It is larger than `ATTENTION_LIMITS` allow.
    """
    chance, worst = random.Random(3), dict.fromkeys(("output", "query", "key", "value"), 0.0)
    for number in range(12):
        heads, key_heads, size = HEADS[number % len(HEADS)]
        packed = random_layout(chance, device, dtype)
        shapes = [(1, count, packed.num_tokens, size) for count in (heads, key_heads, key_heads)]
        states = [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]
        exact = [state.detach().float().requires_grad_() for state in states]
        shared = [state.repeat_interleave(heads // key_heads, dim=1) for state in exact[1:]]
        expected = packed_attention._masked(exact[0], shared[0], shared[1], packed, size**-0.5)
        found, _ = packed_attention.attention(torch.nn.Identity(), states[0], states[1], states[2], None, packed=packed)
        factors = torch.randn_like(expected)
        (expected * factors).sum().backward()
        (found.float() * factors).sum().backward()
        pairs = [
            (found.detach(), expected.detach()),
            *((one.grad, other.grad) for one, other in zip(states, exact, strict=True)),
        ]
        for name, (one, other) in zip(worst, pairs, strict=True):
            worst[name] = max(worst[name], float((one.float() - other).norm() / other.norm()))
    assert max(worst.values()) <= ATTENTION_LIMITS[dtype], worst
    return worst


def plain_engine(
    model: Any, training: TrainingConfig, num_steps: int, dtype: torch.dtype, *, kept: torch.dtype
) -> PlainEngine:
    """Return the engine of these measurements."""
    return PlainEngine(model, training, kept=kept)


def machine(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return what the machine is and can do, and whether the step is exact on it.

    If TRL is installed, its own error in bf16 is measured too.
    """
    from exactness import error_of_trl, exactness

    shape, exact = SHAPES[task["checked_shape"]], {}
    few = triples(PROFILES["hh-rlhf"], task["checked_pairs"], shape.vocabulary, longest=task["longest"])
    for name in dict.fromkeys(("fp32", task["precision"])):
        make = functools.partial(Ours, device=device, build=functools.partial(plain_engine, kept=torch.float32))
        found = {f"attention, {part}": error for part, error in attention_error(device, DTYPES[name]).items()}
        exact[name] = found | exactness(shape, few, bf16=name == "bf16", make=make)
        if name == "bf16":
            with contextlib.suppress(ImportError):
                exact[name]["gradient, TRL"] = error_of_trl(shape, few, task["longest"], device)
    is_gpu = device.type == "cuda"
    return {
        "name": torch.cuda.get_device_name(device) if is_gpu else "CPU",
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory
        if is_gpu
        else os.sysconf("SC_PHYS_PAGES") * 4096,
        "peak_flops_measured": product_peak(DTYPES[task["precision"]], device),
        "exact": exact,
    }


def steps(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Run steps of one system over the same pairs as every other system."""
    shape, dtype, total = SHAPES[task["shape"]], DTYPES[task["precision"]], task["warm_up"] + task["steps"]
    count = task["pairs_per_step"] * total
    pairs = triples(PROFILES[task["profile"]], count, shape.vocabulary, longest=task["longest"])
    kept = torch.float32 if task["state"] == "fp32 masters" else dtype
    lora, per_step = task["lora_rank"], task["pairs_per_step"]
    prepared = 0.0
    if task["system"] == "ours":
        build = functools.partial(plain_engine, kept=kept)
        common: dict[str, Any] = {"lora_rank": lora, "device": device, "build": build, "max_tokens": task["max_tokens"]}
        ours = Ours(shape, pairs, dtype=dtype, pairs_per_step=per_step, **common)
        assert longest_packed(ours.engine, padded_token_logps) > task["longest"], (
            "the model is not packed; the log says why"
        )
        step: Callable[[], Any] = ours.step
    else:
        from peers import Peer

        # An adapter's base needs no fp32 weights of its own; TRL keeps the adapter in fp32 itself.
        weights = dtype if lora else kept
        tuned = task["tuned"]
        peer = Peer(
            shape,
            pairs,
            bf16=dtype == torch.bfloat16,
            pairs_per_step=per_step,
            longest=task["longest"],
            tuned=tuned,
            weights=weights,
            lora_rank=lora,
            device=device,
        )
        assert fingerprint(peer.ids()) == fingerprint(pairs), "TRL trains on other tokens"
        prepared, step = (peer.prepared if tuned is not None and tuned["precompute"] else 0.0), peer.step
    seconds = [timed(step, device) for _ in range(total)][task["warm_up"] :]
    return {"seconds": [one + prepared / total for one in seconds], "peak_bytes": peak_bytes(device)}


def sampling(task: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the sampled tokens per second of our sampler and of transformers' own.

    No response ends before the limit, and none is cut.
    """
    shape, new, samples = SHAPES[task["shape"]], task["new_tokens"], task["samples"]
    model = shape.build(DTYPES[task["precision"]], device).eval()
    prompts = [pair.prompt for pair in triples(Profile(127, 1), task["prompts"], shape.vocabulary, longest=512)]
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=new, stop_ids=frozenset())
    seeds = [[samples * row + number for number in range(samples)] for row in range(len(prompts))]
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    model.generation_config.eos_token_id = None

    def own() -> int:
        found = sample(
            model, prompts, seeds=seeds, law=law, pad_id=PAD, batch_size=len(prompts), on_batch=lambda _: None
        )
        return sum(len(response.token_ids) for response in found)

    def theirs() -> int:
        limits = {
            "max_new_tokens": new,
            "min_new_tokens": new,
            "do_sample": True,
            "top_k": 0,
            "top_p": 1.0,
            "temperature": 1.0,
        }
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids, attention_mask=mask, num_return_sequences=samples, pad_token_id=PAD, **limits
            )
        return int(found.shape[0] * (found.shape[1] - width))

    rates: dict[str, list[float]] = {}
    for number in range(1 + task["repeats"]):
        for name, work in (("ours", own), ("transformers generate", theirs)):
            wait(device)
            began = time.perf_counter()
            tokens = work()
            wait(device)
            if number:
                rates.setdefault(name, []).append(tokens / (time.perf_counter() - began))
            assert tokens == len(prompts) * samples * new, name
    return {"tokens_per_second": rates, "end_token_ignored": EOS, "peak_bytes": peak_bytes(device)}


KINDS = {"machine": machine, "steps": steps, "sampling": sampling}


def main() -> None:
    """Read the task and answer it; name, without measuring it, what lacks memory or is not installed."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    task = json.loads(sys.stdin.readline())
    device = torch.device("cuda", 0) if task["device"] == "cuda" else torch.device("cpu")
    keep_freed_memory()
    try:
        answer = KINDS[task["kind"]](task, device)
    except torch.cuda.OutOfMemoryError as error:
        answer = {"skipped": f"out of memory: {str(error).splitlines()[0]}"}
    except ImportError as error:
        if task.get("system") != "trl":
            raise
        answer = {"skipped": f"not installed: {error}"}
    print(json.dumps(answer), file=out, flush=True)
    os._exit(0)  # a peer's thread may still wait for a step


if __name__ == "__main__":
    main()
