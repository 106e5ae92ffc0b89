"""Reference log-probabilities: computed once, by the trainer's own forward, before the first step. Knows no loss."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from components.artifacts import write_bytes
from components.dpo.batches import Pair
from components.dpo.losses.transforms import length_desensitised_logps
from components.dpo.responses import Sides
from components.scoring.response_logps import plain_sum, response_logps

HASH = "sha256"
log = logging.getLogger(__name__)


class PairLogps(NamedTuple):
    """Log-probabilities of the chosen and rejected answers, each (pairs,), float32 on the CPU.

    Each is summed over response tokens, in nats. It is 0 if a pair has no answer on that side.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    mismatched: torch.Tensor | None = None
    """The same for an answer to another prompt; None if the loss does not need it."""
    ld_chosen: torch.Tensor | None = None
    """Chosen with less weight on the longer answer's tail (LD-DPO); None if it counts in full."""
    ld_rejected: torch.Tensor | None = None

    def sums(self, index: list[int]) -> torch.Tensor:
        """Return sums over all tokens of some pairs, then those of LD-DPO if there are any: (1 or 2, 2, pairs).

        Chosen come first.
        """
        sums = (self.chosen, self.rejected, self.ld_chosen, self.ld_rejected)
        return torch.stack([values[index] for values in sums if values is not None]).unflatten(0, (-1, 2))

    def part(self, places: slice) -> "PairLogps":
        """Return the log-probabilities of some of the pairs."""
        return PairLogps(*(None if values is None else values[places] for values in self))  # type: ignore[arg-type]


def score_pairs(
    model: torch.nn.Module,
    pairs: Sequence[Pair],
    pad_id: int,
    *,
    max_tokens: int,
    max_rows: int,
    rank: int,
    world_size: int,
    ld_alpha: float = 1.0,
    mismatched: Sequence[Sequence[int]] | None = None,
) -> PairLogps:
    """Score every pair under a model; the ranks share the work and all get the whole result. Every rank must call it.

    Args:
        model: A causal language model.
        pairs: The pairs.
        pad_id: Token that fills the padding.
        max_tokens: Tokens in one padded forward, as of `response_logps`.
        max_rows: Responses in one forward; 0 sets no limit.
        rank: This process's rank.
        world_size: Ranks in all.
        ld_alpha: Weight of the longer answer's tail (LD-DPO); below 1, answers are also summed so.
        mismatched: An answer to another prompt for each pair, scored as well.
    """
    mine = list(range(rank, len(pairs), world_size))
    sides = Sides([pairs[index] for index in mine])
    shared, ld_sums = sides.shared_lengths(), torch.zeros(len(sides.answers))

    def summed(logps: torch.Tensor, mask: torch.Tensor, rows: list[int]) -> torch.Tensor:
        # Both sums come from one forward.
        lengths = shared[rows].to(logps.device)
        ld_sums[rows] = length_desensitised_logps(logps, mask, lengths, ld_alpha=ld_alpha).cpu()
        return plain_sum(logps, mask, rows)

    limits: dict[str, Any] = {"max_tokens": max_tokens, "max_rows": max_rows, "counted_as": "responses scored"}
    sums = response_logps(model, pad_id, sides.prompts, sides.answers, **limits, summed=summed)
    own = dict(zip(("chosen", "rejected"), sides.spread(sums), strict=True))
    if mismatched is not None:
        prompts, others = [pairs[index].prompt for index in mine], [mismatched[index] for index in mine]
        own["mismatched"] = response_logps(model, pad_id, prompts, others, **limits)
    if ld_alpha < 1:
        own |= dict(zip(("ld_chosen", "ld_rejected"), sides.spread(ld_sums), strict=True))
    logps = torch.zeros(len(own), len(pairs))
    logps[:, mine] = torch.stack(list(own.values()))
    if world_size > 1:
        logps = logps.to(next(model.parameters()).device)
        torch.distributed.all_reduce(logps)
    return PairLogps(**dict(zip(own, logps.cpu(), strict=True)))


def cached(path: Path, *, rank: int, compute: Callable[[], PairLogps]) -> PairLogps:
    """Read the log-probabilities that an interrupted run of the same request left, or compute and keep them.

    The file lies in a directory named by the digest of the whole request. The digest covers the reference's weights,
    the pairs and the limits, so numbers of other weights can never be read. The file holds a hash of its numbers, so
    damaged ones are not used. Every rank must call it.
    """
    stored = read_logps(path)
    usable: list[Any] = [None] * torch.distributed.get_world_size()
    # All ranks compute together, so a rank that cannot read the file must not compute alone.
    torch.distributed.all_gather_object(usable, stored is not None)
    if stored is not None and all(usable):
        return stored
    logps = compute()
    if rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_logps(path, logps)
    return logps


def write_logps(path: Path, logps: PairLogps) -> None:
    """Write log-probabilities with a hash of them."""
    values = {name: values for name, values in logps._asdict().items() if values is not None}
    write_bytes(path, save(values, metadata={HASH: _sha256(values)}))


def read_logps(path: Path) -> PairLogps | None:
    """Read what `write_logps` wrote; return None if the file does not exist or is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if file.metadata()[HASH] == _sha256(values):
                return PairLogps(**values)
    except (SafetensorError, OSError, KeyError, TypeError):
        pass
    log.warning("%s is damaged and not used", path)
    return None


def _sha256(values: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(values):
        total.update(f"{name} {tuple(values[name].shape)}\n".encode() + values[name].contiguous().numpy().tobytes())
    return total.hexdigest()
