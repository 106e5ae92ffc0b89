"""The objective of a step in a reward model's training. Knows no optimizer and no files."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from components.dpo.batches import Layout, Pair, Slot
from components.dpo.losses.labels import accuracies
from components.dpo.objective import MicroBatch, StepValues
from components.dpo.objective_state import NoState
from components.dpo.reference import PairLogps
from components.models.adapters import unwrapped
from components.reward_model.loss import bradley_terry
from components.reward_model.model import rewards
from components.scoring.packed.layout import Packed
from components.scoring.packed.rewards import longest_rewarded, packed_rewards, split_shared


def sharing_prompts(pairs: Sequence[Pair], *, pad_id: int) -> list[Pair]:
    """Return pairs of whole conversations with the tokens that both begin with as their prompt.

    Args:
        pairs: Pairs without prompts.
        pad_id: Padding token of the model; at the end of a conversation it counts for nothing.
    """
    shared = []
    for pair in pairs:
        prompt, (chosen, rejected) = split_shared([pair.chosen, pair.rejected], pad_id)
        shared.append(replace(pair, prompt=prompt, chosen=chosen, rejected=rejected))
    return shared


class RewardObjective:
    """The Bradley-Terry loss over pairs from `sharing_prompts`.

    A micro-batch is one packed row, in which each prompt is read once, if that is exact for the model, else padded.
    """

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
        chosen, rejected = self._rewards(engine, pairs).chunk(2)
        p = torch.tensor([pair.p for pair in pairs], device=device)
        losses, margins = bradley_terry(chosen, rejected, p)
        weights = torch.tensor([slot.weight for slot in slots], device=device)
        rows = torch.stack([losses, chosen, rejected, margins, accuracies(margins, p)]).detach()
        num_tokens = sum(pair.num_tokens for pair in pairs)
        return MicroBatch((losses * weights).sum(), rows @ weights, torch.isfinite(rows).all(dim=0), num_tokens)

    def _rewards(self, engine: Any, pairs: Sequence[Pair]) -> torch.Tensor:
        """Return the rewards of all chosen conversations and then of all rejected ones, (2 x pairs,), in float32."""
        prompts = [pair.prompt for pair in pairs] * 2
        answers = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
        if max(pair.longest for pair in pairs) > longest_rewarded(engine) or not all(prompts):
            texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            return rewards(engine, texts, pad_id=self.pad_id)
        layout = Packed(prompts, answers, engine.device, unwrapped(engine).dtype, ends=True)
        return packed_rewards(engine, layout).float()

    def metrics(self, means: Mapping[str, float], values: StepValues) -> dict[str, float]:
        """Return the metrics of a step: all of its measures."""
        return dict(means)
