"""Explain that memory ran out: what was asked for, what to turn down, which micro-batch fits. Knows no files."""

import contextlib
import errno
import gc
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from components.config import TrainingConfig
from components.dpo.batches import Slot
from components.dpo.objective import Objective, StepValues
from components.models.loading import give_memory_back

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory")
ASKED = re.compile(r"tried to allocate ([\d.]+ ?(?:[KMGT]i?B|bytes))", re.IGNORECASE)
log = logging.getLogger(__name__)


class OutOfMemory(RuntimeError):
    """Memory ran out; the message says what to turn down."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a device or of this machine.

    Torch's CPU allocator has no error type for it, so the text of a RuntimeError counts too.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextlib.contextmanager
def explaining_out_of_memory(
    what: str,
    training: TrainingConfig,
    *,
    micro_batch_pairs: int,
    has_adapter: bool,
    attempt: Callable[[int], None] | None = None,
    knob: str = "training.micro_batch_pairs",
) -> Iterator[None]:
    """Turn an error of the allocator within the block into one that says which micro-batch fits.

    Args:
        what: What the block does, for the message.
        training: The training section.
        micro_batch_pairs: Pairs in a micro-batch, which is less than the configured number if a step has fewer.
        has_adapter: Whether adapters are trained in place of all weights.
        attempt: Works on a number of pairs as the block does, and raises the allocator's error if they do not fit.
            Without it, the message names half of what failed: the memory of a micro-batch grows in proportion to its
            pairs, that of the weights does not.
        knob: Key that sets the number; the word at its end is what the message counts.

    Raises:
        OutOfMemory: Memory ran out within the block.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        asked = ASKED.search(str(error))
        # The frames of the failed forward hold its activations, and nothing smaller could be tried beside them.
        traceback.clear_frames(error.__traceback__)
        advice = _advice(micro_batch_pairs, attempt)
        request = f", asking for {asked[1]} more" if asked else ""
        told = (
            f"{what} ran out of memory with {micro_batch_pairs} {knob.rpartition('_')[2]} in a micro-batch "
            f"({knob}){request}: {advice}"
        )
        raise OutOfMemory(f"{told}. What also saves memory: {', '.join(_remedies(training, has_adapter))}") from None


def _advice(failed: int, attempt: Callable[[int], None] | None) -> str:
    if failed == 1:
        return "it cannot be lower"
    if attempt is None:
        return f"set it to {failed // 2}, half of what failed (not tried)"
    try:
        fits = _largest_that_fits(failed, attempt)
    except Exception as error:
        log.warning("smaller micro-batches could not be tried: %s: %s", type(error).__name__, error)
        return f"set it to {failed // 2}, half of what failed (not tried)"
    return (
        f"set it to {fits}, tried just now on the longest pairs; the steps stay the same"
        if fits
        else "not even 1 pair fits"
    )


def _largest_that_fits(failed: int, attempt: Callable[[int], None]) -> int:
    """Halve the number of pairs that failed until it fits; return 0 if not even one pair does."""
    size = failed // 2
    while size:
        gc.collect()  # on a CPU too: the failed attempt's tensors may be in cycles
        give_memory_back()
        try:
            attempt(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        else:
            return size
        size //= 2
    return 0


def _remedies(training: TrainingConfig, has_adapter: bool) -> list[str]:
    remedies = {
        "training.gradient_checkpointing: true": not training.gradient_checkpointing,
        "training.zero_stage: 3 over several processes": training.zero_stage < 3,
        "training.offload with ZeRO": training.offload == "none",
        "an adapter (lora.rank: 16) in place of all weights": not has_adapter,
        "a lower policy.max_response_tokens": True,
    }
    return [remedy for remedy, applies in remedies.items() if applies]


def attempt_on(engine: Any, objective: Objective) -> Callable[[int], None] | None:
    """Return a function that tries a forward and backward pass over the longest pairs, or None if none can.

    The function does not touch the engine's gradients. None can if there are several ranks, since they cannot try
    alone, or under ZeRO 3, which shards the weights that a gradient would be taken for.
    """
    if torch.distributed.get_world_size() > 1 or engine.zero_optimization_stage() == 3:
        return None
    order = sorted(range(len(objective.pairs)), key=lambda index: _length(objective, index))

    def attempt(size: int) -> None:
        trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
        # Plain AdamW takes the memory of its averages at the first step only.
        kept = (
            [] if engine.optimizer.state else [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
        )
        values = StepValues(torch.zeros((), device=engine.device) if objective.loss.needs_kl else None)
        result = objective.micro_batch(engine.module, [Slot(index, 1.0) for index in order[-size:]], values)
        torch.autograd.grad(result.loss, trained, allow_unused=True)
        del kept

    return attempt


def _length(objective: Objective, index: int) -> int:
    pair = objective.pairs[index]
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
