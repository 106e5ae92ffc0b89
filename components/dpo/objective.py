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
from components.dpo.coupled import Coupled, Part, couple
from components.dpo.losses import LOSSES, Loss, PairLosses, weighted_sum, with_divergence
from components.dpo.losses.labels import accuracies
from components.dpo.losses.quantities import compared_with_reference
from components.dpo.losses.transforms import length_desensitised_logps, wpo_weights
from components.dpo.losses.unpaired import losses_of_both
from components.dpo.objective_state import ObjectiveState
from components.dpo.reference import PairLogps, score_pairs
from components.dpo.responses import Sides, desirability, mismatched_answers, responses_loss
from components.models.noise import prepare_training
from components.scoring.batch import Batch
from components.scoring.response_logps import TokenScores, response_logps, token_scores

REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
MEASURED = ("loss", *REWARDS, "logps/chosen", "logps/rejected")
PAIR_LOSS = "loss/pairs"
"""The loss of the pairs alone: without tag weights, WPO's weights and constraints."""
SHARES = {"share/chosen": ("rewards/chosen", "logps/chosen"), "share/rejected": ("rewards/rejected", "logps/rejected")}
"""Share of the pairs that have an answer on a side, and the measures that are means over those pairs only."""
LENGTHS = ("lengths/chosen", "lengths/rejected")
ENTROPY, REFERENCE = "sum/entropy", "sum/reference"
"""Sums over the tokens of a pair's answers: of the policy's entropies, and of log pi_ref."""
OF_TOKENS = (*LENGTHS, ENTROPY, REFERENCE)


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


class StepValues(NamedTuple):
    """What the pairs of a step share; measured before its micro-batches."""

    kl: torch.Tensor | None = None
    """Mean log-ratio of the step's prompts with other prompts' answers; None for losses that do not read it."""
    coupled: Coupled | None = None
    """Losses of pairs that depend on each other (`Loss.couples_batch`); None if none do, or if the step is a single
    micro-batch."""
    tokens_per_rank: float | None = None
    """Trained tokens of the step over all ranks, divided by their number; None for losses that are means over pairs."""


class Objective:
    """The loss and the constraints that are minimised over some pairs."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reference: PairLogps | None,
        training: TrainingConfig,
        *,
        pad_id: int,
        end_ids: Sequence[int],
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
            end_ids: Tokens that end an answer.
            pair_weights: Weight of each pair's loss.
            balance: Factors of the weights of desirable and undesirable responses, from the training pairs
                (`response_balance`).
            constraints: Constraints by name.
            state: State, shared with other objectives of the run.

        Raises:
            ValueError: There are unpaired responses and the loss takes pairs only.
        """
        self.pairs, self.reference, self.training = pairs, reference, training
        self.pad_id, self.end_ids = pad_id, end_ids
        self.loss = configured_loss(training)
        self.responses_loss = responses_loss(pairs, training)
        self.settings = _settings(self.loss, training, balance)
        self.constraints, self.state = constraints, state
        self.mismatched = mismatched_answers(pairs)
        self.measures = (*MEASURED, PAIR_LOSS, *SHARES, *(f"constraints/{name}/violation" for name in constraints))
        self.measures += OF_TOKENS
        self.pair_weights = torch.tensor(pair_weights)

    def expected_first_loss(self, pairs: Sequence[int]) -> float | None:
        """Return `PAIR_LOSS` of a step over these pairs for a policy that is the reference; None if it is not known."""
        if self.responses_loss is None:
            return self.loss.expected_first_loss(torch.tensor([self.pairs[index].p for index in pairs]), self.settings)
        p_of_answers = [[p for p in desirability(self.pairs[index]) if p is not None] for index in pairs]
        expected = [self.responses_loss.expected_first_loss(torch.tensor(p), self.settings) for p in p_of_answers]
        return None if None in expected else fmean(value for value in expected if value is not None)

    def metrics(self, means: Mapping[str, float], values: StepValues) -> dict[str, float]:
        """Return the metrics of a step or an evaluation, without those that only repeat another one."""
        weighs = self.constraints or self.training.tag_weights or self.training.weighting != "none"
        left_out = {*SHARES, *OF_TOKENS} | (set() if weighs else {PAIR_LOSS})
        metrics = {name: value for name, value in means.items() if name not in left_out}
        for share, of_one_side in SHARES.items():
            for name in of_one_side:
                value = metrics.pop(name)
                # If all responses of a step are undesirable, it has no mean over desirable ones.
                metrics |= {name: value / means[share]} if means[share] else {}
        metrics |= per_token(means, has_reference=self.reference is not None)
        return metrics | self.state.record() | ({} if values.kl is None else {"kl/mismatched": float(values.kl)})

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

    def step_values(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> StepValues:
        """Measure what the pairs of a step share, with one more forward each, before its micro-batches.

        So nothing depends on how the step is cut into micro-batches and spread over ranks. Every rank must call it.
        """
        kl = self._kl(engine, micro_batches, layout) if self.loss.needs_kl else None
        is_cut = layout.world_size > 1 or len(micro_batches) > 1
        if not (self.loss.couples_batch and is_cut):
            return StepValues(kl)
        return StepValues(kl, self._coupled(engine, micro_batches, layout, kl))

    @torch.no_grad()
    def _kl(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> torch.Tensor:
        """Return the mean log-ratio of the step's prompts with other prompts' answers, over all ranks, in nats."""
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

    @torch.no_grad()
    def _coupled(
        self, engine: Any, micro_batches: list[list[Slot]], layout: Layout, kl: torch.Tensor | None
    ) -> Coupled:
        """Return the step's losses, and their derivatives by the log-probabilities of all ranks' pairs."""

        def part(slots: list[Slot]) -> Part:
            sides, batch, scores = self._scores(engine, slots, end_ids=())
            weights = self._weights(slots, scores, batch, sides)
            return Part(slots, self._sums(scores, batch, sides), weights)

        def losses(sums: torch.Tensor, index: list[int]) -> torch.Tensor:
            return self._losses(sums, Sides([self.pairs[place] for place in index]), index, kl).losses

        return couple(map(part, micro_batches), losses, num_pairs=len(self.pairs), world_size=layout.world_size)

    def micro_batch(self, engine: Any, slots: list[Slot], values: StepValues) -> MicroBatch:
        """Run one forward over the slots' pairs."""
        sides, batch, scores = self._scores(
            engine, slots, end_ids=self.end_ids if self.constraints else (), entropies=True
        )
        device, index = engine.device, [slot.pair for slot in slots]
        weights = torch.tensor([slot.weight for slot in slots], device=device)
        sums = self._sums(scores, batch, sides)
        result = self._losses(sums, sides, index, values.kl)
        weights_of_pairs = self._weights(slots, scores, batch, sides)
        if values.coupled is None:
            losses, total = result.losses, result.losses * weights_of_pairs
        else:
            losses, gradients = values.coupled.losses[index], values.coupled.gradients[..., index]
            total = losses * weights_of_pairs + (gradients * (sums - sums.detach())).sum(dim=(0, 1))
        violations = self._violations(scores, batch, sides)
        for name, violation in violations.items():
            total = total + self.state.multipliers.values[name] * violation
        margins = result.chosen_rewards - result.rejected_rewards
        rewards = (result.chosen_rewards, result.rejected_rewards, margins, accuracies(margins, self._p(index, device)))
        measured = [total, *rewards, *sums[0], losses, *sides.present(device), *violations.values()]
        rows = torch.stack(measured).detach()
        num_tokens = sum(map(len, sides.answers))
        # A product of its own: with more rows, the last bits of the others could change.
        averaged = torch.cat([rows @ weights, self._of_tokens(scores, sides, index) @ weights])
        return MicroBatch((total * weights).sum(), averaged, torch.isfinite(rows).all(dim=0), num_tokens)

    @torch.no_grad()
    def _of_tokens(self, scores: TokenScores, sides: Sides, index: list[int]) -> torch.Tensor:
        """Return the values of `OF_TOKENS`, (values, pairs)."""
        device = scores.logps.device
        lengths = sides.spread(torch.tensor([float(len(answer)) for answer in sides.answers], device=device))
        assert scores.entropies is not None
        entropies = sides.spread(scores.entropies.sum(dim=1)).sum(dim=0)
        reference = torch.zeros_like(entropies)
        if self.reference is not None:
            reference = self.reference.sums(index)[0].sum(dim=0).to(device)
        return torch.stack([*lengths, entropies, reference])

    def _scores(
        self, engine: Any, slots: list[Slot], *, end_ids: Sequence[int], entropies: bool = False
    ) -> tuple[Sides, Batch, TokenScores]:
        """Run the forward."""
        sides = Sides([self.pairs[slot.pair] for slot in slots])
        batch = Batch(sides.prompts, sides.answers, self.pad_id, engine.device)
        collisions = self.training.weighting == "wpo"
        return sides, batch, token_scores(engine, batch, end_ids=end_ids, collisions=collisions, entropies=entropies)

    def _sums(self, scores: TokenScores, batch: Batch, sides: Sides) -> torch.Tensor:
        """Return the answers' log-probabilities as `PairLogps.sums` does, differentiable."""
        sums = [scores.logps.sum(dim=1)]
        if self.training.ld_alpha < 1:
            shared = sides.shared_lengths().to(scores.logps.device)
            mask, ld_alpha = batch.target_mask, self.training.ld_alpha
            sums.append(length_desensitised_logps(scores.logps, mask, shared, ld_alpha=ld_alpha))
        return torch.stack([sides.spread(values) for values in sums])

    def _p(self, index: list[int], device: torch.device) -> torch.Tensor:
        return torch.tensor([self.pairs[place].p for place in index], device=device)

    def _losses(self, sums: torch.Tensor, sides: Sides, index: list[int], kl: torch.Tensor | None) -> PairLosses:
        """Return the losses of the pairs whose log-probabilities are `sums`, (sums, 2, pairs)."""
        device = sums.device
        shared = self.settings | {"reward_shift": self.state.reward_shift.mean.to(device)}
        shared |= {} if kl is None else {"kl": kl}
        lengths = sides.spread(torch.tensor([float(len(answer)) for answer in sides.answers], device=device))
        p = self._p(index, device)
        available = {"policy_chosen_logps": sums[0, 0], "policy_rejected_logps": sums[0, 1], "p": p}
        available |= {"chosen_lengths": lengths[0], "rejected_lengths": lengths[1]}
        if self.reference is not None:
            reference = self.reference.sums(index).to(device)
            if self.responses_loss is not None:
                log_ratios = sums[-1] - reference[-1]
                return losses_of_both(self.responses_loss, log_ratios, p, sides.present(device), shared)
            available |= {"reference_chosen_logps": reference[0, 0], "reference_rejected_logps": reference[0, 1]}
            if self.training.ld_alpha < 1:
                # LD-DPO is about what is compared with the reference; likelihoods remain those of whole answers.
                available |= compared_with_reference(sums[1], reference[1])
        return self.loss.apply(available | shared)

    def _weights(self, slots: list[Slot], scores: TokenScores, batch: Batch, sides: Sides) -> torch.Tensor:
        """Return the factor of each pair's loss, (slots,)."""
        weights = self.pair_weights[[slot.pair for slot in slots]].to(scores.logps.device)
        if scores.log_collisions is None:
            return weights
        alignment = wpo_weights(scores.logps, scores.log_collisions, batch.target_mask)
        return weights * sides.spread(alignment, gap=1.0).prod(dim=0)

    def _violations(self, scores: TokenScores, batch: Batch, sides: Sides) -> dict[str, torch.Tensor]:
        """Return the mean violation of a pair's answers, (pairs,), by constraint."""
        if not self.constraints:
            return {}
        assert scores.end_logps is not None
        judged = torch.tensor(sides.violations, dtype=scores.logps.dtype, device=scores.logps.device)
        responses = Responses(batch.targets, batch.target_mask, scores.logps, scores.end_logps, judged)
        answers = sides.present(scores.logps.device).sum(dim=0)
        violations = {name: sides.spread(constraint(responses)) for name, constraint in self.constraints.items()}
        return {name: violation.sum(dim=0) / answers for name, violation in violations.items()}


def per_token(means: Mapping[str, float], *, has_reference: bool) -> dict[str, float]:
    """Return the metrics of a step's response tokens: each is a mean over tokens, not over pairs.

    Args:
        means: Means over the pairs of the measures of an objective.
        has_reference: Whether log-probabilities under the reference were measured.
    """
    tokens = sum(means[name] for name in LENGTHS)
    metrics = {"entropy": means[ENTROPY] / tokens}
    for side in ("chosen", "rejected"):
        # A step of single responses may have none of a side.
        if length := means[f"lengths/{side}"]:
            metrics[f"logps/{side}_per_token"] = means[f"logps/{side}"] / length
            metrics[f"lengths/{side}"] = length / means[f"share/{side}"]
    if has_reference:
        policy = means["logps/chosen"] + means["logps/rejected"]
        metrics["log_ratios/per_token"] = (policy - means[REFERENCE]) / tokens
    return metrics


def _settings(loss: Loss[PairLosses], training: TrainingConfig, balance: tuple[float, float]) -> dict[str, float]:
    """Return the values of the settings that the loss reads."""
    values = {name: float(getattr(training, name)) for name in loss.settings}
    for name, factor in zip(("desirable_weight", "undesirable_weight"), balance, strict=True):
        if name in values:
            values[name] *= factor
    return values
