"""The training loop: it only sequences named steps. Knows no files but the checkpoints' directory."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from components import progress
from components.config import TrainingConfig
from components.dpo import checkpoints
from components.dpo.batches import Layout, Pair, Plan, Slot
from components.dpo.engine import optimizer_step
from components.dpo.finite import refuse_non_finite_gradient, refuse_non_finite_loss
from components.dpo.losses import LOSSES
from components.dpo.reference import PairLogps
from components.dpo.scoring import Batch, token_logps

SUMMED = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")


class MicroBatch(NamedTuple):
    """What one forward gives."""

    loss: torch.Tensor
    """Weighted sum of the pairs' losses: scalar, differentiable."""
    sums: torch.Tensor
    """Weighted sums of `SUMMED` (7,), detached."""
    finite: torch.Tensor
    """(pairs,) whether all of a pair's own values are finite; stays on the device."""
    num_tokens: int
    """Response tokens."""


@dataclass(frozen=True)
class Objective:
    """What is minimised: the pairs, their reference log-probabilities and the loss."""

    pairs: Sequence[Pair]
    reference: PairLogps
    training: TrainingConfig
    pad_id: int

    def micro_batch(self, engine: Any, slots: list[Slot]) -> MicroBatch:
        """Runs one forward over the slots' pairs."""
        chosen = [self.pairs[slot.pair] for slot in slots]
        answers = [pair.chosen for pair in chosen] + [pair.rejected for pair in chosen]
        batch = Batch([pair.prompt for pair in chosen] * 2, answers, self.pad_id, engine.device)
        logps = token_logps(engine, batch).sum(dim=1)
        policy_chosen, policy_rejected = logps.view(2, len(slots))
        index = [slot.pair for slot in slots]
        losses, chosen_rewards, rejected_rewards = LOSSES[self.training.loss](
            policy_chosen,
            policy_rejected,
            self.reference.chosen[index].to(engine.device),
            self.reference.rejected[index].to(engine.device),
            beta=self.training.beta,
            p=torch.tensor([pair.p for pair in chosen], device=engine.device),
            label_smoothing=self.training.label_smoothing,
        )
        weights = torch.tensor([slot.weight for slot in slots], device=engine.device)
        margins = chosen_rewards - rejected_rewards
        # A tie is half right, so that an untrained policy scores 0.5 and not 0.
        accuracies = (margins > 0).float() + 0.5 * (margins == 0).float()
        rows = torch.stack(
            [losses.detach(), chosen_rewards, rejected_rewards, margins, accuracies, policy_chosen.detach(), policy_rejected.detach()]
        )
        finite = torch.isfinite(rows).all(dim=0)
        return MicroBatch((losses * weights).sum(), rows @ weights, finite, int(batch.target_mask.sum()))


def train(
    engine: Any,
    objective: Objective,
    plan: Plan,
    layout: Layout,
    *,
    directory: Path,
    on_first_loss: Callable[[float], None],
) -> tuple[list[str], int]:
    """Runs every optimizer step that a checkpoint in `directory` has not already made.

    Args:
        engine: What `build_engine` returned.
        objective: What is minimised.
        plan: Which pairs each step takes.
        layout: How a step is spread over ranks and micro-batches.
        directory: Where checkpoints lie.
        on_first_loss: Called with the loss of step 1, before its optimizer step; it may raise.

    Returns:
        The metrics lines of all steps (JSON, one a step), and the step that the run resumed from (0: none).

    Raises:
        NonFiniteLoss: A step's loss, or another of its means, is not finite.
        NonFiniteGradient: A step's gradient is not finite.
    """
    resumed, metrics = checkpoints.resume(directory, engine)
    engine.train()
    for step, pairs in plan.steps(resumed):
        record = train_step(engine, objective, pairs, layout, name=f"step {step + 1}", on_loss=on_first_loss if step == 0 else None)
        record |= {"step": step + 1, "epoch": (step + 1) / plan.steps_per_epoch}
        record["pairs_per_second"] = len(pairs) / record.pop("seconds")
        metrics.append(json.dumps(record, sort_keys=True))
        progress.report(step + 1, plan.num_steps, f"loss {record['loss']:.4f}")
        if (step + 1) % objective.training.checkpoint_every == 0 and step + 1 < plan.num_steps:
            checkpoints.save(directory, engine, step + 1, metrics)
    return metrics, resumed


def train_step(
    engine: Any, objective: Objective, pairs: list[int], layout: Layout, *, name: str, on_loss: Callable[[float], None] | None
) -> dict[str, Any]:
    """Makes one optimizer step over the pairs with these indices and returns its metrics; a step that is not finite is not made."""
    started = time.monotonic()
    learning_rate = engine.get_lr()[0]
    micro_batches = layout.micro_batches(pairs)
    last = len(micro_batches) - 1
    totals, tokens, finite = torch.zeros(len(SUMMED), device=engine.device), 0, []
    for number, slots in enumerate(micro_batches):
        result = objective.micro_batch(engine, slots)
        engine.backward(result.loss)
        totals += result.sums
        tokens += result.num_tokens
        finite.append(([slot.pair for slot in slots], result.finite))
        if number < last:
            engine.step()
    means = mean_over_ranks(totals, layout)
    refuse_non_finite_loss(means, objective.pairs, finite, name)
    if on_loss is not None:
        on_loss(means["loss"])
    norm = optimizer_step(engine)
    refuse_non_finite_gradient(norm, [objective.pairs[index] for index in pairs], name)
    seconds = time.monotonic() - started
    rates = {"seconds": seconds, "tokens_per_second": tokens * layout.world_size / seconds, "time": time.time()}
    return means | {"learning_rate": learning_rate, "grad_norm": norm} | rates


def mean_over_ranks(totals: torch.Tensor, layout: Layout) -> dict[str, float]:
    """Turns weighted sums over this rank's micro-batches into means over the step's pairs: one synchronisation a step."""
    if layout.world_size > 1:
        torch.distributed.all_reduce(totals)
    means = (totals / (layout.world_size * layout.accumulation)).tolist()
    return dict(zip(SUMMED, means, strict=True))


@torch.no_grad()
def evaluate_pairs(engine: Any, objective: Objective, layout: Layout) -> dict[str, float] | None:
    """Means of `SUMMED` over pairs that were not trained on; None where there are none. Every rank must call it."""
    if not objective.pairs:
        return None
    engine.eval()
    everything = Layout.fit(
        pairs_per_step=len(objective.pairs),
        micro_batch_pairs=layout.micro_batch_pairs,
        rank=layout.rank,
        world_size=layout.world_size,
    )
    totals, finite = torch.zeros(len(SUMMED), device=engine.device), []
    for slots in everything.micro_batches(list(range(len(objective.pairs)))):
        result = objective.micro_batch(engine, slots)
        totals += result.sums
        finite.append(([slot.pair for slot in slots], result.finite))
    means = mean_over_ranks(totals, everything)
    refuse_non_finite_loss(means, objective.pairs, finite, "the evaluation pairs after training")
    return means | {"num_pairs": len(objective.pairs)}
