"""In the last layer only the rows that the head reads: its products for all others would be thrown away.

Knows a layer's usual names.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from components.scoring.packed.layout import Packed

ROW_BY_ROW = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Modules of a decoder layer each of whose rows depends on the same row of its input only; a trial would notice if one
does not."""
WORTH_IT = 0.9
"""Share of the rows above which choosing them costs more than it saves."""


@contextlib.contextmanager
def only_what_is_read(base: Any, layout: Packed) -> Iterator[None]:
    """Within it, the last decoder layer projects queries and outputs and runs its MLP for rows at which a response token is predicted.

    Keys and values are made of all rows, as later rows attend to them. Other rows leave the layer with something else
    than they would, which nothing reads, and which gives no gradient.

    Args:
        base: A causal language model without a wrapper.
        layout: The row of tokens that it is about to see.
    """
    with contextlib.ExitStack() as hooks:
        total = layout.input_ids.shape[1]
        if len(layout.read) <= WORTH_IT * total:
            for module in _modules(base):
                hooks.enter_context(_at(module, layout.read, total))
        yield


def _modules(base: Any) -> list[torch.nn.Module]:
    """None where the model calls them otherwise, or computes them again in the backward pass, when the rows are no longer known."""
    layers = getattr(base.get_decoder(), "layers", None)
    if (
        not isinstance(layers, torch.nn.ModuleList)
        or len(layers) == 0
        or getattr(layers[-1], "gradient_checkpointing", False)
    ):
        return []
    try:
        return [layers[-1].get_submodule(name) for name in ROW_BY_ROW]
    except AttributeError:
        return []


@contextlib.contextmanager
def _at(module: torch.nn.Module, rows: torch.Tensor, total: int) -> Iterator[None]:
    """Makes a module take some of a total of rows, (1, rows, size), and give zeros for the others."""

    def choose(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0].index_select(1, rows), *args[1:])

    def spread(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.new_zeros(1, total, output.shape[2]).index_copy(1, rows, output)

    handles = [module.register_forward_pre_hook(choose), module.register_forward_hook(spread)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
