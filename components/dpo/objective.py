"""The objective of a step: the configured loss over pairs, and the constraints beside it.

Knows no optimizer and no files. The loss says what it reads (`losses.Loss`); this module supplies it and never looks at
the loss's name.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch

from components.config import TrainingConfig
from components.dpo.batches import Layout, Pair, Slot
from components.dpo.constraints import Constraint, Responses
from components.dpo.losses import LOSSES, Loss, PairLosses, weighted_sum, with_divergence
from components.dpo.losses.transforms import length_desensitised_logps, wpo_weights
from components.dpo.losses.unpaired import losses_of_both
from components.dpo.objective_state import ObjectiveState
from components.dpo.reference import PairLogps, score_pairs
from components.dpo.responses import Sides, desirability, mismatched_answers, responses_loss
from components.models.noise import prepare_training
from components.scoring.response_logps import Batch, TokenScores, response_logps, token_scores

REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
MEASURED = ("loss", *REWARDS, "logps/chosen", "logps/rejected")
PAIR_LOSS = "loss/pairs"
"""The loss of the pairs alone: without tag weights, WPO's weights and constraints."""
SHARES = {"share/chosen": ("rewards/chosen", "logps/chosen"), "share/rejected": ("rewards/rejected", "logps/rejected")}
"""Share of the pairs that have an answer on a side, and the measures that are means over those pairs only."""


def configured_loss(training: TrainingConfig) -> Loss[PairLosses]:
    """Return the loss that a training section configures.

    Raises:
        ValueError: A loss cannot be combined with what is configured beside it.
    """
    weights = {str(training.loss): 1.0} | {str(name): weight for name, weight in training.added_losses.items()}
    loss = weighted_sum(weights) if training.added_losses else LOSSES[training.loss]
    return loss if training.divergence == "reverse_kl" else with_divergence(loss, training.divergence)


class MicroBatch(NamedTuple):
    """Results of one forward."""

    loss: torch.Tensor
    """Weighted sum of the pairs' losses: scalar, differentiable."""
    sums: torch.Tensor
    """Weighted sums of the objective's `measures`, (measures,), detached."""
    finite: torch.Tensor
    """Whether all of a pair's own values are finite, (pairs,); stays on the device."""
    num_tokens: int
    """Response tokens."""


class Objective:
    """The loss and the constraints that are minimised over some pairs."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reference: PairLogps | None,
        training: TrainingConfig,
        *,
        pad_id: int,
        end_id: int,
        pair_weights: Sequence[float],
        balance: tuple[float, float],
        constraints: Mapping[str, Constraint],
        state: ObjectiveState,
    ) -> None:
        """Keep what every step needs.

        Args:
            pairs: Pairs, or unpaired responses.
            reference: The reference's log-probabilities of them; None for a loss that needs none.
            training: The loss and its settings.
            pad_id: Token that fills the padding.
            end_id: Token that ends an answer.
            pair_weights: Weight of each pair's loss.
            balance: Factors of the weights of desirable and undesirable responses, from the training pairs
                (`response_balance`).
            constraints: Constraints by name.
            state: State, shared with other objectives of the run.

        Raises:
            ValueError: There are unpaired responses and the loss takes pairs only.
        """
        self.pairs, self.reference, self.training = pairs, reference, training
        self.pad_id, self.end_id = pad_id, end_id
        self.loss = configured_loss(training)
        self.responses_loss = responses_loss(pairs, training)
        self.settings = _settings(self.loss, training, balance)
        self.constraints, self.state = constraints, state
        self.mismatched = mismatched_answers(pairs)
        self.measures = (*MEASURED, PAIR_LOSS, *SHARES, *(f"constraints/{name}/violation" for name in constraints))
        self.pair_weights = torch.tensor(pair_weights)

    def expected_first_loss(self, pairs: Sequence[int]) -> float | None:
        """Return `PAIR_LOSS` of a step over these pairs for a policy that is the reference; None if it is not known."""
        if self.responses_loss is None:
            return self.loss.expected_first_loss(torch.tensor([self.pairs[index].p for index in pairs]), self.settings)
        p_of_answers = [[p for p in desirability(self.pairs[index]) if p is not None] for index in pairs]
        expected = [self.responses_loss.expected_first_loss(torch.tensor(p), self.settings) for p in p_of_answers]
        return None if None in expected else fmean(value for value in expected if value is not None)

    def metrics(self, means: Mapping[str, float], kl: torch.Tensor | None) -> dict[str, float]:
        """Return the metrics of a step or an evaluation, without those that only repeat another one."""
        weighs = self.constraints or self.training.tag_weights or self.training.weighting != "none"
        metrics = {name: value for name, value in means.items() if name not in SHARES and (weighs or name != PAIR_LOSS)}
        for share, of_one_side in SHARES.items():
            for name in of_one_side:
                value = metrics.pop(name)
                # If all responses of a step are undesirable, it has no mean over desirable ones.
                metrics |= {name: value / means[share]} if means[share] else {}
        return metrics | self.state.record() | ({} if kl is None else {"kl/mismatched": float(kl)})

    def follow(self, engine: Any, layout: Layout) -> None:
        """Make the present policy the reference (TR-DPO's hard update, arXiv 2404.09656). Every rank must call it."""
        engine.eval()
        self.reference = score_pairs(
            engine,
            self.pairs,
            self.pad_id,
            max_tokens=layout.max_tokens,
            max_rows=2 * layout.max_pairs,
            rank=layout.rank,
            world_size=layout.world_size,
            ld_alpha=self.training.ld_alpha,
            mismatched=self.mismatched if self.loss.needs_kl else None,
        )
        prepare_training(engine)

    @torch.no_grad()
    def kl(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> torch.Tensor | None:
        """Return the mean log-ratio of the step's prompts with other prompts' answers, over all ranks, in nats.

        None for losses that do not read it. It takes one more forward, before the step, so that the estimate does not
        depend on how the step is cut into micro-batches.
        """
        if not self.loss.needs_kl:
            return None
        assert self.reference is not None
        assert self.reference.mismatched is not None
        total = torch.zeros((), device=engine.device)
        for slots in micro_batches:
            index = [slot.pair for slot in slots]
            prompts = [self.pairs[place].prompt for place in index]
            answers = [self.mismatched[place] for place in index]
            policy = response_logps(engine, self.pad_id, prompts, answers, max_tokens=layout.max_tokens)
            weights = torch.tensor([slot.weight for slot in slots])
            total += ((policy - self.reference.mismatched[index]) * weights).sum().to(engine.device)
        if layout.world_size > 1:
            torch.distributed.all_reduce(total)
        return total / layout.world_size

    def micro_batch(self, engine: Any, slots: list[Slot], kl: torch.Tensor | None) -> MicroBatch:
        """Run one forward over the slots' pairs."""
        device, sides = engine.device, Sides([self.pairs[slot.pair] for slot in slots])
        batch = Batch(sides.prompts, sides.answers, self.pad_id, device)
        end_id = self.end_id if self.constraints else None
        scores = token_scores(engine, batch, end_id=end_id, collisions=self.training.weighting == "wpo")
        index, weights = [slot.pair for slot in slots], torch.tensor([slot.weight for slot in slots], device=device)
        result = self._losses(sides.spread(self._summed(scores, batch, sides)), sides, index, kl)
        total = result.losses * self.pair_weights[index].to(device) * self._alignment(scores, batch, sides)
        violations = self._violations(scores, batch, sides)
        for name, violation in violations.items():
            total = total + self.state.multipliers.values[name] * violation
        margins = result.chosen_rewards - result.rejected_rewards
        # A tie is half right, so that an untrained policy scores 0.5 and not 0.
        accuracies = (margins > 0).float() + 0.5 * (margins == 0).float()
        chosen, rejected = sides.spread(scores.logps.detach().sum(dim=1))
        rewards = (result.chosen_rewards, result.rejected_rewards, margins, accuracies)
        measured = [total, *rewards, chosen, rejected, result.losses, *sides.present(device), *violations.values()]
        rows = torch.stack(measured).detach()
        num_tokens = sum(map(len, sides.answers))
        return MicroBatch((total * weights).sum(), rows @ weights, torch.isfinite(rows).all(dim=0), num_tokens)

    def _summed(self, scores: TokenScores, batch: Batch, sides: Sides) -> torch.Tensor:
        if self.training.ld_alpha == 1:
            return scores.logps.sum(dim=1)
        shared = sides.shared_lengths().to(scores.logps.device)
        return length_desensitised_logps(scores.logps, batch.target_mask, shared, ld_alpha=self.training.ld_alpha)

    def _losses(self, logps: torch.Tensor, sides: Sides, index: list[int], kl: torch.Tensor | None) -> PairLosses:
        """Return the losses of the pairs whose log-probabilities are `logps`, (2, pairs)."""
        device = logps.device
        shared = self.settings | {"reward_shift": self.state.reward_shift.mean.to(device)}
        shared |= {} if kl is None else {"kl": kl}
        lengths = sides.spread(torch.tensor([float(len(answer)) for answer in sides.answers], device=device))
        p = torch.tensor([self.pairs[place].p for place in index], device=device)
        available = {"policy_chosen_logps": logps[0], "policy_rejected_logps": logps[1], "p": p}
        available |= {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
        if self.reference is not None:
            chosen, rejected = self.reference.chosen[index].to(device), self.reference.rejected[index].to(device)
            if self.responses_loss is not None:
                reference = torch.stack([chosen, rejected])
                return losses_of_both(self.responses_loss, logps, reference, p, sides.present(device), shared)
            available |= {"reference_chosen_logps": chosen, "reference_rejected_logps": rejected}
        return self.loss.apply(available | shared)

    def _alignment(self, scores: TokenScores, batch: Batch, sides: Sides) -> torch.Tensor | float:
        if scores.log_collisions is None:
            return 1.0
        return sides.spread(wpo_weights(scores.logps, scores.log_collisions, batch.target_mask), gap=1.0).prod(dim=0)

    def _violations(self, scores: TokenScores, batch: Batch, sides: Sides) -> dict[str, torch.Tensor]:
        """Return the mean violation of a pair's answers, (pairs,), by constraint."""
        if not self.constraints:
            return {}
        assert scores.end_logps is not None
        responses = Responses(batch.targets, batch.target_mask, scores.logps, scores.end_logps)
        answers = sides.present(scores.logps.device).sum(dim=0)
        violations = {name: sides.spread(constraint(responses)) for name, constraint in self.constraints.items()}
        return {name: violation.sum(dim=0) / answers for name, violation in violations.items()}


def _settings(loss: Loss[PairLosses], training: TrainingConfig, balance: tuple[float, float]) -> dict[str, float]:
    """Return the values of the settings that the loss reads."""
    values = {name: float(getattr(training, name)) for name in loss.settings}
    for name, factor in zip(("desirable_weight", "undesirable_weight"), balance, strict=True):
        if name in values:
            values[name] *= factor
    return values
