"""Reference log-probabilities: computed once, by the trainer's own forward, before the first step. Knows no loss."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save

from components.artifacts import write_bytes
from components.dpo.batches import Pair
from components.dpo.scoring import response_logps

log = logging.getLogger(__name__)


class PairLogps(NamedTuple):
    """log-probabilities of chosen and rejected, each (pairs,), summed over response tokens, float32 on the CPU."""

    chosen: torch.Tensor
    rejected: torch.Tensor


def score_pairs(model: torch.nn.Module, pairs: Sequence[Pair], pad_id: int, *, batch_size: int, rank: int, world_size: int) -> PairLogps:
    """Scores every pair under a model; the ranks share the work and all get the whole result. Every rank must call it."""
    mine = list(range(rank, len(pairs), world_size))
    logps = torch.zeros(2, len(pairs), device=next(model.parameters()).device)
    if mine:
        prompts = [pairs[index].prompt for index in mine]
        answers = [pairs[index].chosen for index in mine] + [pairs[index].rejected for index in mine]
        scored = response_logps(model, pad_id, prompts + prompts, answers, batch_size=batch_size)
        logps[:, mine] = scored.view(2, len(mine)).to(logps.device)
    if world_size > 1:
        torch.distributed.all_reduce(logps)
    chosen, rejected = logps.cpu()
    return PairLogps(chosen, rejected)


def cached(path: Path, *, rank: int, compute: Callable[[], PairLogps]) -> PairLogps:
    """Reads the log-probabilities that an interrupted run of the same request left, or computes and keeps them.

    The file lies in a directory named by the digest of the whole request, which covers the reference's weights, the pairs and the
    limits, so numbers of other weights can never be read. Every rank must call it.
    """
    exists = path.exists()
    if torch.distributed.get_world_size() > 1:
        torch.distributed.barrier()
    if exists:
        stored = load_file(path)
        return PairLogps(stored["chosen"], stored["rejected"])
    logps = compute()
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(logps._asdict()))
    return logps
