"""Reference log-probabilities: computed once, by the trainer's own forward, before the first step. Knows no loss."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save

from components.artifacts import write_bytes
from components.dpo.batches import Pair
from components.dpo.losses.transforms import length_desensitised_logps
from components.dpo.scoring import plain_sum, response_logps

log = logging.getLogger(__name__)


class PairLogps(NamedTuple):
    """log-probabilities of chosen and rejected, each (pairs,), summed over response tokens, float32 on the CPU."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    mismatched: torch.Tensor | None = None
    """The same of an answer to another prompt, where the loss needs it."""

    def part(self, places: slice) -> "PairLogps":
        """Those of some of the pairs."""
        return PairLogps(*(None if values is None else values[places] for values in self))  # type: ignore[arg-type]


def score_pairs(
    model: torch.nn.Module,
    pairs: Sequence[Pair],
    pad_id: int,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    ld_alpha: float = 1.0,
    mismatched: Sequence[Sequence[int]] | None = None,
) -> PairLogps:
    """Scores every pair under a model; the ranks share the work and all get the whole result. Every rank must call it.

    Args:
        model: A causal language model.
        pairs: The pairs.
        pad_id: Token that fills the padding.
        batch_size: Responses in one forward.
        rank: This process's rank.
        world_size: Ranks in all.
        ld_alpha: Weight of the longer answer's tail in its sum (LD-DPO).
        mismatched: For each pair an answer to another prompt, to be scored as well; they are summed plainly.
    """
    mine = list(range(rank, len(pairs), world_size))
    kinds = 2 if mismatched is None else 3
    logps = torch.zeros(kinds, len(pairs), device=next(model.parameters()).device)
    if mine:
        prompts = [pairs[index].prompt for index in mine]
        answers = [pairs[index].chosen for index in mine] + [pairs[index].rejected for index in mine]
        shared = torch.tensor([min(len(pairs[index].chosen), len(pairs[index].rejected)) for index in mine] * 2)

        def summed(logps: torch.Tensor, mask: torch.Tensor, rows: list[int]) -> torch.Tensor:
            return length_desensitised_logps(logps, mask, shared[rows].to(logps.device), ld_alpha=ld_alpha)

        sums = plain_sum if ld_alpha == 1 else summed
        logps[:2, mine] = (
            response_logps(model, pad_id, prompts * 2, answers, batch_size=batch_size, summed=sums).view(2, len(mine)).to(logps.device)
        )
        if mismatched is not None:
            others = [mismatched[index] for index in mine]
            logps[2, mine] = response_logps(model, pad_id, prompts, others, batch_size=batch_size).to(logps.device)
    if world_size > 1:
        torch.distributed.all_reduce(logps)
    chosen, rejected, *rest = logps.cpu()
    return PairLogps(chosen, rejected, *rest)


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
        return PairLogps(**stored)
    logps = compute()
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({name: values for name, values in logps._asdict().items() if values is not None}))
    return logps
