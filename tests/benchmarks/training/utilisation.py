"""Executed floating-point operations of a step, and the best rate of matrix products on this machine."""

import time
from collections.abc import Callable
from typing import Any

import torch
from ours import Ours
from shapes import Shape, Triple
from torch.utils.flop_counter import FlopCounterMode

from components.models.cpu.linear import product

SWEEP = (
    (512, 896, 4864),
    (2048, 2048, 2048),
    (4096, 384, 1024),
    (4096, 1024, 384),
    (1024, 4096, 1024),
    (2048, 384, 16384),
)
"""Rows, inner size and columns of products, the fastest of which counts as the machine's peak."""


def _linear_flops(a: Any, b: Any, *_: Any, **__: Any) -> int:
    rows = 1
    for size in a[:-1]:
        rows *= size
    return int(2 * rows * a[-1] * b[0])


def _best(work: Callable[[], Any], times: int = 8) -> float:
    work()
    best = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def peak(dtype: torch.dtype) -> float:
    """Return the highest rate of floating-point operations per second that a product reaches, by either library."""
    rates = []
    for rows, inner, columns in SWEEP:
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        fastest = min(_best(lambda: a @ b.T), _best(lambda: product(a, b)))  # noqa: B023
        rates.append(2 * rows * inner * columns / fastest)
    return max(rates)


def utilisation(shape: Shape, pairs: list[Triple], *, dtype: torch.dtype, max_tokens: int) -> dict[str, float]:
    """Return the share of that peak at which a whole step (reference pass, forward, backward, optimizer) computes.

    Medians of steps.
    """
    ours = Ours(shape, pairs, dtype=dtype, pairs_per_step=len(pairs), max_tokens=max_tokens)
    ours.step()
    rate = peak(dtype)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _linear_flops}) as counter:
        ours.step()
    times = []
    for _ in range(7):
        began = time.perf_counter()
        ours.step()
        times.append(time.perf_counter() - began)
    seconds = sorted(times)[len(times) // 2]
    rate = max(rate, peak(dtype))
    flops = float(counter.get_total_flops())
    return {"share": flops / seconds / rate, "gflop": flops / 1e9, "seconds": seconds, "peak_gflops": rate / 1e9}
