"""The training loop: it only sequences named steps. Knows no files but the checkpoints' directory."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from components.config import TrainingConfig
from components.dpo import checkpoints
from components.dpo.batches import Layout, Pair, Plan, Slot, token_counts
from components.dpo.engine import accumulate, optimizer_step
from components.dpo.finite import refuse_non_finite_gradient, refuse_non_finite_loss
from components.dpo.objective import MicroBatch, Objective, StepValues
from components.dpo.reference import PairLogps
from components.models.noise import prepare_training
from components.runtime import progress

CPU_TOKENS = {torch.float32: 1024, torch.bfloat16: 1536}
"""Tokens of a pass with gradients on a CPU. More are hardly faster (measured: 15 % at most) and take up to twice the
memory."""
GPU_TOKENS = 8192
OnLoss = Callable[[Mapping[str, float], list[int]], None]
Masks = Callable[[int, int], AbstractContextManager[None]]
"""(step, micro-batch), both from 0 -> the context in which the micro-batch's forward and backward pass drop
activations."""
WITHOUT_DROPOUT = "loss/without_dropout"
"""Loss of the first step's pairs before the step, in a training with dropout."""


def micro_batch_tokens(device: torch.device, dtype: torch.dtype) -> int:
    """Return the tokens of a pass with gradients if none are configured."""
    return CPU_TOKENS[dtype] if device.type == "cpu" else GPU_TOKENS


class StepState(Protocol):
    """The state that an objective keeps between steps."""

    def update(self, means: Mapping[str, float], num_pairs: int) -> None:
        """Update the state with the means of a finished step, which are the same on every rank."""

    def restore(self, metrics: Mapping[str, float]) -> None:
        """Restore the state from the metrics of the last finished step."""


class StepObjective(Protocol):
    """The objective that a step minimises: that of DPO, or that of a reward model."""

    reference: PairLogps | None
    """Log-probabilities under the reference; None if the loss reads none."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """Pairs over which it is minimised."""

    @property
    def state(self) -> StepState:
        """State that it keeps between steps."""

    @property
    def measures(self) -> Sequence[str]:
        """Names of the sums of a micro-batch; `loss` is one of them."""

    def step_values(self, engine: Any, micro_batches: list[list[Slot]], layout: Layout) -> StepValues:
        """Measure what the pairs of a step share; every rank must call it."""

    def micro_batch(self, engine: Any, slots: list[Slot], values: StepValues) -> MicroBatch:
        """Run one forward over the slots' pairs."""

    def follow(self, engine: Any, layout: Layout) -> None:
        """Make the present policy the reference."""

    def metrics(self, means: Mapping[str, float], values: StepValues) -> dict[str, float]:
        """Return the metrics of a step."""


class Evaluating(Protocol):
    """Evaluations on held-back pairs between the steps."""

    @property
    def kept(self) -> Path | None:
        """Directory of the best weights so far; None if they are not kept."""

    @property
    def stopped(self) -> str | None:
        """Why the training ends before its last step; None if it goes on."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Return whether there is an evaluation behind `step` optimizer steps."""

    def evaluate(self, engine: Any, step: int) -> dict[str, float]:
        """Return the metrics of an evaluation behind `step` optimizer steps; every rank must call it."""

    def restore(self, rows: Sequence[str], checkpoint: Path | None) -> None:
        """Go on from the rows and the best weights of a resumed training; every rank must call it."""


class Steps(NamedTuple):
    """The steps of a training."""

    metrics: list[str]
    """JSON, one line per step."""
    resumed_from: int
    """Step of the checkpoint from which the training went on; 0 if there was none."""


def train(
    engine: Any,
    objective: StepObjective,
    training: TrainingConfig,
    plan: Plan,
    layout: Layout,
    *,
    directory: Path,
    on_first_loss: OnLoss,
    masks: Masks | None = None,
    held_out: Evaluating | None = None,
) -> Steps:
    """Run every optimizer step that a checkpoint in `directory` has not already made.

    Args:
        engine: Engine from `build_engine`.
        objective: The objective that is minimised.
        training: The training section: how often a checkpoint is written and the reference follows.
        plan: Which pairs each step takes.
        layout: How a step is spread over ranks and micro-batches.
        directory: Directory of the checkpoints.
        on_first_loss: Called with the means of step 1 and the indices of its pairs, before its optimizer step; it may
            raise.
        masks: Dropout of the training passes; None if nothing is dropped. With it, `on_first_loss` gets the means of a
            forward of its own that drops nothing.
        held_out: Evaluations between the steps, which may end the training; None if there are none.

    Raises:
        NonFiniteLoss: A step's loss, or another of its means, is not finite.
        NonFiniteGradient: A step's gradient is not finite.
    """
    resumed, metrics, followed = checkpoints.resume(directory, engine)
    objective.reference = followed or objective.reference
    if metrics:
        objective.state.restore(json.loads(metrics[-1]))
    if held_out is not None:
        held_out.restore(metrics, checkpoints.best_weights(directory, resumed))
    prepare_training(engine)
    seen = sum(_num_tokens(objective.pairs, pairs) for _, pairs in islice(plan.steps(0), resumed))
    progress.report(resumed, plan.num_steps, "steps")
    for step, pairs in plan.steps(resumed):
        drops_first = step == 0 and masks is not None
        first = _first_loss_without_dropout(engine, objective, pairs, layout, on_first_loss) if drops_first else {}
        record = train_step(
            engine,
            objective,
            pairs,
            layout,
            name=f"step {step + 1}",
            on_loss=on_first_loss if step == 0 and not drops_first else None,
            masks=None if masks is None else partial(masks, step),
        )
        seen += _num_tokens(objective.pairs, pairs)
        record |= first | {"step": step + 1, "epoch": (step + 1) / plan.steps_per_epoch, "num_tokens": seen}
        record["pairs_per_second"] = len(pairs) / record.pop("seconds")
        if held_out is not None and held_out.is_due(step + 1, plan.num_steps):
            record |= held_out.evaluate(engine, step + 1)
            prepare_training(engine)
        metrics.append(json.dumps(record, sort_keys=True))
        progress.report(step + 1, plan.num_steps, f"loss {record['loss']:.4f}")
        if held_out is not None and held_out.stopped is not None:
            progress.report(step + 1, step + 1, f"stopped early: {held_out.stopped}")
            break
        if training.reference_sync_steps and (step + 1) % training.reference_sync_steps == 0:
            objective.follow(engine, layout)
            followed = objective.reference
        if (step + 1) % training.checkpoint_every == 0 and step + 1 < plan.num_steps:
            best = None if held_out is None else held_out.kept
            checkpoints.save(directory, engine, step + 1, metrics, reference=followed, best=best)
    return Steps(metrics, resumed)


def _first_loss_without_dropout(
    engine: Any, objective: StepObjective, pairs: list[int], layout: Layout, on_first_loss: OnLoss
) -> dict[str, float]:
    """Measure the first step's pairs with nothing dropped, since dropout moves a loss from its known first value."""
    means, _ = measured(engine, objective, pairs, layout, name="step 1")
    on_first_loss(means, pairs)
    return {WITHOUT_DROPOUT: means["loss"]}


def train_step(
    engine: Any,
    objective: StepObjective,
    pairs: list[int],
    layout: Layout,
    *,
    name: str,
    on_loss: OnLoss | None,
    masks: Callable[[int], AbstractContextManager[None]] | None = None,
) -> dict[str, Any]:
    """Make one optimizer step over the pairs with these indices and return its metrics.

    A step that is not finite is not made.
    """
    started = time.monotonic()
    learning_rate = engine.get_lr()[0]
    micro_batches = layout.micro_batches(pairs)
    values, last = objective.step_values(engine, micro_batches, layout), len(micro_batches) - 1
    totals, tokens, finite = torch.zeros(len(objective.measures), device=engine.device), 0, []
    for number, slots in enumerate(micro_batches):
        with nullcontext() if masks is None else masks(number):
            result = objective.micro_batch(engine, slots, values)
            accumulate(engine, result.loss, is_last=number == last)
        totals += result.sums
        tokens += result.num_tokens
        finite.append(([slot.pair for slot in slots], result.finite))
    means = mean_over_ranks(totals, layout.world_size, objective.measures)
    refuse_non_finite_loss(means, objective.pairs, finite, name)
    if on_loss is not None:
        on_loss(means, pairs)
    norm = optimizer_step(engine)
    refuse_non_finite_gradient(norm, [objective.pairs[index] for index in pairs], name)
    objective.state.update(means, len(pairs))
    seconds = time.monotonic() - started
    rates = {"seconds": seconds, "tokens_per_second": tokens * layout.world_size / seconds, "time": time.time()}
    return objective.metrics(means, values) | {"learning_rate": learning_rate, "grad_norm": norm} | rates


def _num_tokens(pairs: Sequence[Pair], index: Sequence[int]) -> int:
    """Return the tokens of some pairs, with the prompt of each answer, as a padded batch holds them."""
    return sum(
        len(pair.prompt) + len(answer)
        for pair in (pairs[place] for place in index)
        for answer in (pair.chosen, pair.rejected)
        if answer
    )


def mean_over_ranks(totals: torch.Tensor, world_size: int, measures: Sequence[str]) -> dict[str, float]:
    """Turn weighted sums over this rank's micro-batches into means over the step's pairs.

    One synchronisation per step.
    """
    if world_size > 1:
        torch.distributed.all_reduce(totals)
    means = (totals / world_size).tolist()
    return dict(zip(measures, means, strict=True))


def evaluate_pairs(
    engine: Any, objective: Objective, layout: Layout, *, when: str = "after training"
) -> dict[str, float] | None:
    """Return the means of the objective's measures over pairs that were not trained on; None if there are none.

    Every rank must call it. `when` says in an error when they were measured.
    """
    if not objective.pairs:
        return None
    engine.eval()
    everything = replace(layout, lengths=token_counts(objective.pairs, padded=layout.padded))
    index, name = list(range(len(objective.pairs))), f"the evaluation pairs {when}"
    means, values = measured(engine, objective, index, everything, name=name, counted_as="evaluation pairs")
    return objective.metrics(means, values) | {"num_pairs": len(objective.pairs)}


@torch.no_grad()
def measured(
    engine: Any, objective: StepObjective, pairs: list[int], layout: Layout, *, name: str, counted_as: str = ""
) -> tuple[dict[str, float], StepValues]:
    """Return the means of the objective's measures over pairs under the present weights, and what these pairs share.

    Every rank must call it.

    Args:
        engine: The engine.
        objective: The objective.
        pairs: Indices of the pairs.
        layout: How they are spread over ranks and micro-batches.
        name: What is measured, for errors.
        counted_as: What the reported progress counts; empty reports none.

    Raises:
        NonFiniteLoss: One of the means is not finite.
    """
    totals, finite = torch.zeros(len(objective.measures), device=engine.device), []
    micro_batches = layout.micro_batches(pairs)
    values = objective.step_values(engine, micro_batches, layout)
    for number, slots in enumerate(micro_batches):
        if counted_as:
            progress.report(number, len(micro_batches), counted_as)
        result = objective.micro_batch(engine, slots, values)
        totals += result.sums
        finite.append(([slot.pair for slot in slots], result.finite))
    means = mean_over_ranks(totals, layout.world_size, objective.measures)
    refuse_non_finite_loss(means, objective.pairs, finite, name)
    return means, values
