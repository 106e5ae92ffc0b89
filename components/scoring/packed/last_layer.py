"""Restricts the last layer to the rows that the head reads, since its products for other rows would be discarded.

Knows a layer's usual names.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from components.scoring.packed.layout import Packed

ROW_BY_ROW = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Modules of a decoder layer whose every row depends only on the same row of the input; a trial notices if one does
not."""
WORTH_IT = 0.9
"""Largest share of the rows at which selecting them saves more than it costs."""


@contextlib.contextmanager
def only_what_is_read(base: Any, layout: Packed) -> Iterator[None]:
    """Restrict the last decoder layer, within the block, to rows at which a response token is predicted.

    For those rows it projects queries and outputs and runs its MLP. Keys and values are computed for all rows, since
    later rows attend to them. The outputs of other rows are wrong, but nothing reads them and they give no gradient.

    Args:
        base: A causal language model without a wrapper.
        layout: The row of tokens that the model is about to read.
    """
    with contextlib.ExitStack() as hooks:
        total = layout.input_ids.shape[1]
        if len(layout.read) <= WORTH_IT * total:
            for module in _modules(base):
                hooks.enter_context(_at(module, layout.read, total))
        yield


def _modules(base: Any) -> list[torch.nn.Module]:
    """Return the modules of `ROW_BY_ROW` in the last layer.

    The list is empty if the model has other names, or computes the layer again in the backward pass, when the rows are
    no longer known.
    """
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
    """Make a module, within the block, read only `rows` of (1, total, size), and return zeros for the others."""

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
