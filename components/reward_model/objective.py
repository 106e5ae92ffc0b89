"""The objective of a step in a reward model's training. Knows no optimizer and no files."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from components.dpo.batches import Layout, Pair, Slot
from components.dpo.losses.labels import accuracies
from components.dpo.objective import MicroBatch, StepValues
from components.dpo.reference import PairLogps
from components.reward_model.loss import bradley_terry
from components.reward_model.model import rewards


class NoState:
    """The state of an objective that keeps nothing between steps."""

    def update(self, means: Mapping[str, float], num_pairs: int) -> None:
        """Keep nothing."""

    def restore(self, metrics: Mapping[str, float]) -> None:
        """Restore nothing."""


class RewardObjective:
    """The Bradley-Terry loss over pairs of whole conversations: `chosen` and `rejected` after an empty prompt."""

    measures = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")

    def __init__(self, pairs: Sequence[Pair], *, pad_id: int) -> None:
        self.pairs, self.pad_id = pairs, pad_id
        self.state = NoState()
        self.reference: PairLogps | None = None

    def follow(self, engine: Any, layout: Layout) -> None:
        """Do nothing: this loss reads no reference."""

    def step_values(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> StepValues:
        """Measure nothing: the pairs of a step share nothing."""
        return StepValues()

    def micro_batch(self, engine: Any, slots: list[Slot], values: StepValues) -> MicroBatch:
        """Run one forward over both conversations of the slots' pairs."""
        pairs, device = [self.pairs[slot.pair] for slot in slots], engine.device
        texts = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        chosen, rejected = rewards(engine, texts, pad_id=self.pad_id).chunk(2)
        p = torch.tensor([pair.p for pair in pairs], device=device)
        losses, margins = bradley_terry(chosen, rejected, p)
        weights = torch.tensor([slot.weight for slot in slots], device=device)
        rows = torch.stack([losses, chosen, rejected, margins, accuracies(margins, p)]).detach()
        num_tokens = sum(map(len, texts))
        return MicroBatch((losses * weights).sum(), rows @ weights, torch.isfinite(rows).all(dim=0), num_tokens)

    def metrics(self, means: Mapping[str, float], values: StepValues) -> dict[str, float]:
        """Return the metrics of a step: all of its measures."""
        return dict(means)
