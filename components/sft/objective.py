"""The objective of a step in supervised fine-tuning. Knows no optimizer and no files."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from components.dpo.batches import Layout, Slot
from components.dpo.objective import MicroBatch, StepValues
from components.dpo.objective_state import NoState
from components.dpo.reference import PairLogps
from components.scoring.batch import Batch
from components.scoring.response_logps import token_logps
from components.sft.rows import TokenRow


class SftObjective:
    """The mean negative log-likelihood of a step's trained tokens, in nats per token.

    The mean is over all trained tokens of the step, so that a token counts the same in a long and in a short
    conversation, and whatever the micro-batches and ranks are.
    """

    measures = ("loss",)

    def __init__(self, rows: Sequence[TokenRow], *, pad_id: int) -> None:
        self.pairs, self.pad_id = [row.pair for row in rows], pad_id
        self.trained = [row.trained for row in rows]
        self.state = NoState()
        self.reference: PairLogps | None = None

    def follow(self, engine: Any, layout: Layout) -> None:
        """Do nothing: this loss reads no reference."""

    def step_values(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> StepValues:
        """Count the step's trained tokens over all ranks; every rank must call it."""
        own = [sum(self.trained[slot.pair]) for slots in micro_batches for slot in slots if slot.weight]
        total = torch.tensor(float(sum(own)), device=engine.device, dtype=torch.float64)
        if layout.world_size > 1:
            torch.distributed.all_reduce(total)
        return StepValues(tokens_per_rank=float(total) / layout.world_size)

    def micro_batch(self, engine: Any, slots: list[Slot], values: StepValues) -> MicroBatch:
        """Run one forward over the slots' conversations."""
        assert values.tokens_per_rank is not None
        pairs = [self.pairs[slot.pair] for slot in slots]
        batch = Batch([pair.prompt for pair in pairs], [pair.chosen for pair in pairs], self.pad_id, engine.device)
        mask = torch.zeros(batch.target_mask.shape)
        for row, slot in enumerate(slots):
            # A slot of weight 0 only keeps the ranks in step.
            mask[row, : len(self.trained[slot.pair])] = torch.tensor(self.trained[slot.pair]) * bool(slot.weight)
        losses = -(token_logps(engine, batch) * mask.to(engine.device)).sum(dim=1)
        loss = losses.sum() / values.tokens_per_rank
        return MicroBatch(loss, loss.detach().reshape(1), torch.isfinite(losses.detach()), int(mask.sum()))

    def metrics(self, means: Mapping[str, float], values: StepValues) -> dict[str, float]:
        """Return the metrics of a step: all of its measures."""
        return dict(means)
