"""Losses of pairs that depend on each other, over a whole step however it is cut. Knows no model and no loss.

A gradient by log-probabilities is all that a micro-batch needs of the other pairs: with L the step's loss and s the
log-probabilities of the micro-batch's own answers, the sum of (dL/ds) s has the gradient that L has by way of them
(Gao et al. 2021, arXiv 2101.06983). So the step's log-probabilities are computed once without gradients, L and dL/ds
from them, and each micro-batch then computes its own again.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch

from components.dpo.batches import Slot


class Coupled(NamedTuple):
    """Losses of a step's pairs by index of the pair; 0 for pairs that are not in the step."""

    losses: torch.Tensor
    """(pairs,)."""
    gradients: torch.Tensor
    """Derivatives of the sum of the pairs' weighted losses by each pair's own log-probabilities, (sums, 2, pairs)."""


class Part(NamedTuple):
    """A micro-batch's values."""

    slots: Sequence[Slot]
    sums: torch.Tensor
    """Log-probabilities of the slots' pairs, (sums, 2, slots)."""
    weights: torch.Tensor
    """Factor of each pair's loss, (slots,)."""


def couple(
    parts: Iterable[Part],
    losses: Callable[[torch.Tensor, list[int]], torch.Tensor],
    *,
    num_pairs: int,
    world_size: int,
) -> Coupled:
    """Return the losses of a step's pairs and their derivatives, the same on every rank. Every rank must call it.

    Args:
        parts: This rank's micro-batches.
        losses: Takes log-probabilities (sums, 2, n) and the indices of their n pairs; returns the losses, (n,).
        num_pairs: Pairs of the data.
        world_size: Ranks in all.
    """
    kinds, totals = _totals(parts, num_pairs)
    if world_size > 1:
        torch.distributed.all_reduce(totals)
    # `tag_shares` may put a pair into a step more than once.
    repeats = totals[0]
    index = torch.arange(num_pairs, device=totals.device).repeat_interleave(repeats.long())
    weights, sums = totals[1, index] / repeats[index], totals[2:, index] / repeats[index]
    sums = sums.view(kinds, 2, -1).requires_grad_()
    with torch.enable_grad():
        of_pairs = losses(sums, index.tolist())
        (gradients,) = torch.autograd.grad((of_pairs * weights).sum(), sums)
    repeats = repeats.clamp(min=1)
    return Coupled(
        totals.new_zeros(num_pairs).index_add(0, index, of_pairs.detach()) / repeats,
        totals.new_zeros(kinds, 2, num_pairs).index_add(2, index, gradients) / repeats,
    )


def _totals(parts: Iterable[Part], num_pairs: int) -> tuple[int, torch.Tensor]:
    """Return the kinds of sums, and by pair: how often it is in the step, its weights and its log-probabilities."""
    kinds, totals = 0, torch.zeros(0)
    for slots, sums, weights in parts:
        rows = torch.cat([torch.ones_like(weights)[None], weights[None], sums.flatten(0, 1)])
        if not kinds:
            kinds, totals = len(sums), rows.new_zeros(len(rows), num_pairs)
        # A slot of weight 0 repeats another slot's pair, to keep ranks in step.
        own = [place for place, slot in enumerate(slots) if slot.weight]
        index = torch.tensor([slots[place].pair for place in own], dtype=torch.long, device=rows.device)
        totals.index_add_(1, index, rows[:, own])
    return kinds, totals
