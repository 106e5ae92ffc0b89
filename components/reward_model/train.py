"""The training loop of a reward model: it only sequences named steps, those of DPO's own loop but for the reference."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from components.config import TrainingConfig
from components.dpo import checkpoints
from components.dpo.batches import Layout, Plan
from components.dpo.train import OnLoss, train_step
from components.reward_model.objective import RewardObjective
from components.runtime import progress


class Steps(NamedTuple):
    """What a training came to."""

    metrics: list[str]
    """JSON, one a step."""
    resumed_from: int
    """Step of the checkpoint that it went on from; 0: none."""


def train(
    engine: Any,
    objective: RewardObjective,
    training: TrainingConfig,
    plan: Plan,
    layout: Layout,
    *,
    directory: Path,
    on_first_loss: OnLoss,
) -> Steps:
    """Runs every optimizer step that a checkpoint in `directory` has not already made.

    Args:
        engine: What `build_engine` returned.
        objective: What is minimised.
        training: Says how often a checkpoint is written.
        plan: Which pairs each step takes.
        layout: How a step is spread over ranks and micro-batches.
        directory: Where checkpoints lie.
        on_first_loss: Called with the means of step 1 before its optimizer step; it may raise.

    Raises:
        NonFiniteLoss: A step's loss, or another of its means, is not finite.
        NonFiniteGradient: A step's gradient is not finite.
    """
    resumed, metrics, _ = checkpoints.resume(directory, engine)
    engine.train()
    for step, pairs in plan.steps(resumed):
        record = train_step(
            engine, objective, pairs, layout, name=f"step {step + 1}", on_loss=on_first_loss if step == 0 else None
        )
        record |= {"step": step + 1, "epoch": (step + 1) / plan.steps_per_epoch}
        record["pairs_per_second"] = len(pairs) / record.pop("seconds")
        metrics.append(json.dumps(record, sort_keys=True))
        progress.report(step + 1, plan.num_steps, f"loss {record['loss']:.4f}")
        if (step + 1) % training.checkpoint_every == 0 and step + 1 < plan.num_steps:
            checkpoints.save(directory, engine, step + 1, metrics, reference=None)
    return Steps(metrics, resumed)
