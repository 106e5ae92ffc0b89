"""Work shared out over the ranks that torchrun started, without an engine around a model.

Knows no model and no stage.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")


def rank() -> int:
    """This process's number among its ranks; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Ranks that share a stage's work."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick_own_device() -> None:
    """Makes this rank's accelerator the current one, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def over_ranks(costs: Sequence[int], work: Callable[[list[int]], Sequence[Result]]) -> list[Result]:
    """Has every rank work on its share of some items, and gives every rank the results of all.

    Args:
        costs: A number an item; items of like cost go to different ranks.
        work: Takes the places of a share's items, the dearest first, and gives a result for each.

    Returns:
        The results in the order of the items.
    """
    dearest_first = sorted(range(len(costs)), key=lambda place: -costs[place])
    shares = [dearest_first[number :: world_size()] for number in range(world_size())]
    own = list(work(shares[rank()]))
    parts: list[list[Result]] = [own]
    if world_size() > 1:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        parts = [[] for _ in shares]
        dist.all_gather_object(parts, own)
    results = {
        place: result
        for share, part in zip(shares, parts, strict=True)
        for place, result in zip(share, part, strict=True)
    }
    return [results[place] for place in range(len(costs))]
