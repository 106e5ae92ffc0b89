"""Log-probabilities of responses by a language model, in packed rows."""

from collections.abc import Callable
from typing import Any

import torch

from components.models.adapters import output_head, unwrapped
from components.models.cpu.linear import OneDnnLinear
from components.models.padding import left_padding_is_exact
from components.scoring.head import column_logps, head_use
from components.scoring.packed.attention import CannotPack
from components.scoring.packed.forward import packed_forward
from components.scoring.packed.layout import Packed
from components.scoring.packed.trial import Packing, Trial, packing

TOLERANCE = 1e-3
"""Largest difference of a token's log-probability, in nats, between packed and plain forward in a trial in fp32."""

Plain = Callable[[Any, list[list[int]], list[list[int]]], torch.Tensor]
"""(model, prompts, responses) -> log-probabilities of the response tokens, row by row."""


def longest_packed(model: Any, plain: Plain) -> int:
    """Return the tokens of the longest prompt and response that the model scores exactly in a packed row.

    The result is 0 if it scores none exactly; the reason is logged.

    Args:
        model: A causal language model, a peft wrapper of one, or an engine around either.
        plain: The padded forward.
    """
    return packing_of(model, plain).longest


def packing_of(model: Any, plain: Plain) -> Packing:
    """Return how far the model is scored in packed rows, and why no further; arguments as for `longest_packed`."""

    def trial(prompts: list[list[int]], responses: list[list[int]]) -> Trial:
        if not left_padding_is_exact(model):
            raise CannotPack("it has layers that are not plain attention")
        head = output_head(model)
        if type(head) not in (torch.nn.Linear, OneDnnLinear):
            raise CannotPack(f"its head is of type {type(head).__name__}")
        if head_use(model) != "plain":
            raise CannotPack("its logits are not the plain output of its head")

        def packed() -> torch.Tensor:
            device = next(model.parameters()).device
            layout = Packed(prompts, responses, device, unwrapped(model).dtype)
            columns = torch.tensor([token for response in responses for token in response], device=device)
            return packed_logps(model, layout, columns.unsqueeze(1)).squeeze(1)

        return Trial(
            plain=lambda: plain(model, prompts, responses),
            packed=packed,
            errors=lambda logps, exact: logps - exact,
            tolerance=TOLERANCE,
            off="a token's log-probability is off by",
            amount="{:.3g} nats",
        )

    return packing(model, trial)


def packed_logps(
    model: Any,
    layout: Packed,
    columns: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropies: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return log-probabilities of columns of the vocabulary where the layout's response tokens are predicted.

    Args:
        model: A model whose `longest_packed` is not exceeded.
        layout: Prompts and responses.
        columns: (response tokens, k) token ids.
        temperature: Divides the logits; other values than 1 without gradients only.
        entropies: (response tokens,), filled as by `column_logps`; None computes none.

    Returns:
        (response tokens, k), fp32, in nats.
    """
    head = output_head(model)

    def scored(hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.squeeze(0).index_select(0, layout.places)
        logps = column_logps(rows, head.weight, head.bias, columns, temperature=temperature, entropies=entropies)
        return logps.unsqueeze(0)

    return packed_forward(model, head, layout, scored).squeeze(0)
