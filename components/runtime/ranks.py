"""Share work among the ranks that torchrun started, without an engine around a model.

Knows no model and no stage.
"""

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

Result = TypeVar("Result")


def rank() -> int:
    """Return this process's rank; 0 if it is the only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of ranks that share a stage's work."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def pick_own_device() -> None:
    """Make this rank's accelerator the current one, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def over_ranks(costs: Sequence[int], work: Callable[[list[int]], Sequence[Result]]) -> list[Result]:
    """Share items among the ranks and return the results of all items on every rank.

    Args:
        costs: One number per item; items of similar cost go to different ranks.
        work: Takes the indices of a share's items, the most expensive first, and returns one result per item.

    Returns:
        The results in the order of the items.
    """
    by_cost = sorted(range(len(costs)), key=lambda index: -costs[index])
    shares = [by_cost[number :: world_size()] for number in range(world_size())]
    own = list(work(shares[rank()]))
    parts: list[list[Result]] = [own]
    if world_size() > 1:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        parts = [[] for _ in shares]
        dist.all_gather_object(parts, own)
    results = {
        index: result
        for share, part in zip(shares, parts, strict=True)
        for index, result in zip(share, part, strict=True)
    }
    return [results[index] for index in range(len(costs))]
