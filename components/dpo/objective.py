"""What a step minimises: the configured loss over pairs, the constraints beside it, and what both must remember between steps.

Knows no optimizer and no files. The loss says what it reads (`losses.Loss`); this module has it at hand and never looks at its name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from components.config import ConstraintsConfig, TrainingConfig
from components.dpo.batches import Layout, Pair, Slot
from components.dpo.constraints import Constraint, Multipliers, Responses
from components.dpo.losses import LOSSES, Loss, PairLosses, weighted_sum, with_divergence
from components.dpo.losses.ratios import RunningMean
from components.dpo.losses.transforms import length_desensitised_logps, wpo_weights
from components.dpo.losses.unpaired import balanced_weights
from components.dpo.reference import PairLogps
from components.dpo.scoring import Batch, TokenScores, response_logps, token_scores

MEASURED = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
PAIR_LOSS = "loss/pairs"
"""The loss of the pairs alone: without tag weights, WPO's weights and constraints."""
REWARD_SHIFT, REWARD_COUNT = "reward_shift", "reward_count"


def configured_loss(training: TrainingConfig) -> Loss[PairLosses]:
    """The loss that a training section means.

    Raises:
        ValueError: A loss cannot be combined with what is configured beside it.
    """
    weights = {str(training.loss): 1.0} | {str(name): weight for name, weight in training.added_losses.items()}
    loss = weighted_sum(weights) if training.added_losses else LOSSES[training.loss]
    return loss if training.divergence == "reverse_kl" else with_divergence(loss, training.divergence)


class MicroBatch(NamedTuple):
    """What one forward gives."""

    loss: torch.Tensor
    """Weighted sum of the pairs' losses: scalar, differentiable."""
    sums: torch.Tensor
    """Weighted sums of the objective's `measures`, (measures,), detached."""
    finite: torch.Tensor
    """(pairs,) whether all of a pair's own values are finite; stays on the device."""
    num_tokens: int
    """Response tokens."""


class Memory:
    """What the objective must find again when a run is resumed: the reward shift of the losses that have one, and the multipliers."""

    def __init__(self, constraints: ConstraintsConfig, names: Sequence[str], *, shifts_rewards: bool) -> None:
        self.shifts_rewards = shifts_rewards
        self.reward_shift = RunningMean(torch.zeros(()), torch.zeros(()))
        self.multipliers = Multipliers(constraints, names)

    def update(self, means: Mapping[str, float], num_pairs: int) -> None:
        """Takes in the means of a finished step, which are the same on every rank."""
        if self.shifts_rewards:
            count = torch.tensor(2.0 * num_pairs)
            total = torch.tensor((means["rewards/chosen"] + means["rewards/rejected"]) * num_pairs)
            self.reward_shift = self.reward_shift.updated(total, count)
        self.multipliers.update({name: means[f"constraints/{name}/violation"] for name in self.multipliers.values})

    def record(self) -> dict[str, float]:
        """What stands in the step's metrics, from which `restore` takes it up again."""
        told = {f"constraints/{name}/multiplier": value for name, value in self.multipliers.values.items()}
        if self.shifts_rewards:
            told |= {REWARD_SHIFT: float(self.reward_shift.mean), REWARD_COUNT: float(self.reward_shift.count)}
        return told

    def restore(self, record: Mapping[str, float]) -> None:
        """Takes up the memory that the metrics of the last finished step hold."""
        self.multipliers.restore({name: record[f"constraints/{name}/multiplier"] for name in self.multipliers.values})
        if self.shifts_rewards:
            self.reward_shift = RunningMean(torch.tensor(record[REWARD_SHIFT]), torch.tensor(record[REWARD_COUNT]))


class Objective:
    """What is minimised over some pairs."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reference: PairLogps,
        training: TrainingConfig,
        *,
        pad_id: int,
        end_id: int,
        pair_weights: Sequence[float],
        constraints: Mapping[str, Constraint],
        memory: Memory,
    ) -> None:
        self.pairs, self.reference, self.training, self.pad_id, self.end_id = pairs, reference, training, pad_id, end_id
        self.loss = configured_loss(training)
        self.settings = _settings(self.loss, training)
        self.constraints, self.memory = constraints, memory
        self.mismatched = mismatched_answers(pairs)
        self.measures = (*MEASURED, PAIR_LOSS, *(f"constraints/{name}/violation" for name in constraints))
        self.pair_weights = torch.tensor(pair_weights)

    def expected_first_loss(self, pairs: Sequence[int]) -> float | None:
        """`PAIR_LOSS` of a step over these pairs where policy and reference are the same weights; None if the loss has none."""
        p = torch.tensor([self.pairs[index].p for index in pairs])
        return self.loss.expected_first_loss(p, self.settings)

    def told(self, means: Mapping[str, float], kl: torch.Tensor | None) -> dict[str, float]:
        """The metrics of a step or an evaluation; what only repeats another one is left out."""
        weighed = self.constraints or self.training.tag_weights or self.training.weighting != "none"
        shown = {name: value for name, value in means.items() if weighed or name != PAIR_LOSS}
        return shown | self.memory.record() | ({} if kl is None else {"kl/mismatched": float(kl)})

    @torch.no_grad()
    def kl(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> torch.Tensor | None:
        """Mean log-ratio of the step's prompts with other prompts' answers, over all ranks, for losses that need it; else None.

        It takes one more forward, before the step, so that the estimate does not depend on how the step is cut into micro-batches.
        """
        if not self.loss.needs_kl:
            return None
        assert self.reference.mismatched is not None
        total = torch.zeros((), device=engine.device)
        for slots in micro_batches:
            index = [slot.pair for slot in slots]
            prompts, answers = [self.pairs[place].prompt for place in index], [self.mismatched[place] for place in index]
            policy = response_logps(engine, self.pad_id, prompts, answers, batch_size=len(slots))
            weights = torch.tensor([slot.weight for slot in slots])
            total += ((policy - self.reference.mismatched[index]) * weights).sum().to(engine.device)
        if layout.world_size > 1:
            torch.distributed.all_reduce(total)
        return total / (layout.world_size * layout.accumulation)

    def micro_batch(self, engine: Any, slots: list[Slot], kl: torch.Tensor | None) -> MicroBatch:
        """Runs one forward over the slots' pairs."""
        mine, device = [self.pairs[slot.pair] for slot in slots], engine.device
        answers = [pair.chosen for pair in mine] + [pair.rejected for pair in mine]
        batch = Batch([pair.prompt for pair in mine] * 2, answers, self.pad_id, device)
        scores = token_scores(engine, batch, end_id=self.end_id if self.constraints else None, collisions=self.training.weighting == "wpo")
        index, weights = [slot.pair for slot in slots], torch.tensor([slot.weight for slot in slots], device=device)
        logps = self._summed(scores, batch)
        result = self._losses(logps, batch, index, weights, kl)
        total = result.losses * self.pair_weights[index].to(device) * self._alignment(scores, batch)
        violations = self._violations(scores, batch)
        for name, violation in violations.items():
            total = total + self.memory.multipliers.values[name] * violation
        margins = result.chosen_rewards - result.rejected_rewards
        # A tie is half right, so that an untrained policy scores 0.5 and not 0.
        accuracies = (margins > 0).float() + 0.5 * (margins == 0).float()
        chosen, rejected = scores.logps.detach().sum(dim=1).view(2, len(slots))
        rewards = (result.chosen_rewards, result.rejected_rewards, margins, accuracies)
        rows = torch.stack([total, *rewards, chosen, rejected, result.losses, *violations.values()]).detach()
        return MicroBatch((total * weights).sum(), rows @ weights, torch.isfinite(rows).all(dim=0), int(batch.target_mask.sum()))

    def _summed(self, scores: TokenScores, batch: Batch) -> torch.Tensor:
        if self.training.ld_alpha == 1:
            return scores.logps.sum(dim=1)
        return length_desensitised_logps(scores.logps, batch.target_mask, shared_lengths(batch), ld_alpha=self.training.ld_alpha)

    def _losses(self, logps: torch.Tensor, batch: Batch, index: list[int], weights: torch.Tensor, kl: torch.Tensor | None) -> PairLosses:
        chosen, rejected = logps.view(2, len(index))
        chosen_lengths, rejected_lengths = batch.target_mask.sum(dim=1).float().view(2, len(index))
        available = {
            "policy_chosen_logps": chosen,
            "policy_rejected_logps": rejected,
            "reference_chosen_logps": self.reference.chosen[index].to(logps.device),
            "reference_rejected_logps": self.reference.rejected[index].to(logps.device),
            "chosen_lengths": chosen_lengths,
            "rejected_lengths": rejected_lengths,
            "p": torch.tensor([self.pairs[place].p for place in index], device=logps.device),
        }
        shared = self.settings | {"reward_shift": self.memory.reward_shift.mean.to(logps.device)} | ({} if kl is None else {"kl": kl})
        counted = weights > 0
        if not self.loss.couples_batch or bool(counted.all()):
            return self.loss.apply(available | shared)
        # Pairs that only fill a micro-batch up must not take part in a loss that looks at its pairs together.
        result = self.loss.apply({name: values[counted] for name, values in available.items()} | shared) if bool(counted.any()) else None
        filled = [torch.zeros_like(chosen) for _ in PairLosses._fields]
        if result is not None:
            filled = [zeros.masked_scatter(counted, values) for zeros, values in zip(filled, result, strict=True)]
        return PairLosses(filled[0] + 0.0 * logps.sum(), *filled[1:])

    def _alignment(self, scores: TokenScores, batch: Batch) -> torch.Tensor | float:
        if scores.log_collisions is None:
            return 1.0
        both = wpo_weights(scores.logps, scores.log_collisions, batch.target_mask).view(2, -1)
        return both[0] * both[1]

    def _violations(self, scores: TokenScores, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean violation of a pair's two answers, (pairs,), by constraint."""
        if not self.constraints:
            return {}
        assert scores.end_logps is not None
        responses = Responses(batch.targets, batch.target_mask, scores.logps, scores.end_logps)
        return {name: constraint(responses).view(2, -1).mean(dim=0) for name, constraint in self.constraints.items()}


def shared_lengths(batch: Batch) -> torch.Tensor:
    """Tokens that both answers of a row's pair have, (rows,); the rows are all chosen answers, then all rejected ones."""
    return batch.target_mask.sum(dim=1).view(2, -1).min(dim=0).values.repeat(2)


def mismatched_answers(pairs: Sequence[Pair]) -> list[list[int]]:
    """For each pair an answer to another prompt: the next pair's chosen one, so that the reference can score it beforehand."""
    return [pair.chosen for pair in (*pairs[1:], *pairs[:1])]


def _settings(loss: Loss[PairLosses], training: TrainingConfig) -> dict[str, float]:
    """Values of the settings that the loss reads. Pairs hold as many desirable as undesirable answers, which KTO's balance counts."""
    values = {name: float(getattr(training, name)) for name in loss.settings}
    desirable, undesirable = balanced_weights(1, 1)
    for name, balance in (("desirable_weight", desirable), ("undesirable_weight", undesirable)):
        if name in values:
            values[name] *= balance
    return values
