"""Tell rounding from error: what a model of lower precision computes exactly, and how far two good ways are apart."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

LOW = (torch.bfloat16, torch.float16)
TIMES = 2.0
"""Largest error of a faster way in a lower precision, in units of the plain way's error; both against fp32.

Both errors are root mean squares over the same tokens. With rounding alone they are of similar size (SmolLM2-135M in
bf16, packed and padded rows, nine draws of tokens: 0.8 to 1.5), while the largest errors of two equally good forwards
differed by up to 2.4 times. Wrong positions, or responses that see each other, give 6 and more.
"""


def root_mean_square(values: torch.Tensor) -> float:
    """Return the root of the mean square, computed in fp32."""
    return float(values.float().square().mean().sqrt())


@contextlib.contextmanager
def in_fp32(base: Any) -> Iterator[None]:
    """Make a model of lower precision compute in fp32, with its own weights, within the block.

    A copy in fp32 would need twice the memory of a model that may barely fit. Instead each module's weights are widened
    while the module runs, which also works in an engine that gathers sharded weights module by module.
    """
    with contextlib.ExitStack() as hooks:
        for module in base.modules():
            if isinstance(module, torch.nn.Embedding):
                # The rows of the table are exact as they are, and the table may be the largest weight.
                hooks.callback(module.register_forward_hook(lambda _, __, output: output.float()).remove)
            elif getattr(module, "compute_dtype", None) in LOW or _has_low(module):
                hooks.enter_context(_widened(module))
        yield


@contextlib.contextmanager
def _widened(module: torch.nn.Module) -> Iterator[None]:
    """Widen a module's inputs and weights to fp32 at every call within the block, and restore the weights after it."""
    own_data: list[tuple[torch.nn.Parameter, torch.Tensor]] = []

    def widen(
        _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        for weight in module.parameters(recurse=False):
            if weight.dtype in LOW:
                own_data.append((weight, weight.data))
                weight.data = weight.data.float()
        return tuple(map(_in_fp32, args)), {name: _in_fp32(value) for name, value in kwargs.items()}

    def restore(*_: Any) -> None:
        while own_data:
            weight, data = own_data.pop()
            weight.data = data

    # `widen` runs after an engine's hooks have gathered a weight, and `restore` before they release it.
    handles = [
        module.register_forward_pre_hook(widen, with_kwargs=True),
        module.register_forward_hook(restore, prepend=True, always_call=True),
    ]
    computes_in: Any = getattr(module, "compute_dtype", None)
    if computes_in in LOW:
        # bitsandbytes converts the input of a quantised layer to this type.
        vars(module)["compute_dtype"] = torch.float32
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if computes_in in LOW:
            vars(module)["compute_dtype"] = computes_in


def _has_low(module: torch.nn.Module) -> bool:
    return any(weight.dtype in LOW for weight in module.parameters(recurse=False))


def _in_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in LOW else value
