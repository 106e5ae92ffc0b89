"""Evaluations during a training: on held-back pairs, at which step the weights were best, and when to stop.

The best weights lie on disk, as fp32 values of what is trained. Knows no loss and no optimizer.
"""

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from components.artifacts import inherit_mode, sync
from components.config import TrainingConfig
from components.dpo.batches import Layout
from components.dpo.checkpoints import link
from components.dpo.engine import set_weight, trained_weights
from components.dpo.masters import write_weights
from components.dpo.objective import Objective
from components.dpo.train import evaluate_pairs

PREFIX = "eval/"
RISES = ("rewards/accuracies", "rewards/margins")
"""Metrics that are better if they are higher."""


class Best(NamedTuple):
    """The best evaluation so far."""

    step: int
    """Optimizer steps behind which it was."""
    value: float


class Evaluations:
    """The values of one metric by step: which is the best, and for how long none was better."""

    def __init__(self, training: TrainingConfig) -> None:
        self.by, self.patience = training.best_by, training.patience
        self.best: Best | None = None
        self.num_since = 0
        """Evaluations since the best one."""

    def add(self, step: int, value: float) -> bool:
        """Take the value behind a step; return whether it is the best. An equal one is not better."""
        sign = -1.0 if self.by in RISES else 1.0
        is_best = self.best is None or sign * value < sign * self.best.value
        self.best, self.num_since = (Best(step, value), 0) if is_best else (self.best, self.num_since + 1)
        return is_best

    @property
    def is_over(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.num_since


class HeldOut:
    """Evaluates the policy on pairs that are not trained on, every few steps and behind the last one."""

    def __init__(self, objective: Objective, training: TrainingConfig, layout: Layout, directory: Path) -> None:
        """Keep what every evaluation needs.

        Args:
            objective: The objective over the held-back pairs.
            training: Says how often, what is better, and whether the best weights are kept.
            layout: How the pairs are spread over ranks and micro-batches.
            directory: Directory of the best weights; it lasts until the training is published.
        """
        self.objective, self.training, self.layout, self.directory = objective, training, layout, directory
        self.evaluations = Evaluations(training)

    @property
    def kept(self) -> Path | None:
        """Directory of the best weights so far; None if they are not kept, or if there are none yet."""
        best = self.evaluations.best
        return None if best is None or self.training.keep == "last" else self.directory / f"best-{best.step:06d}"

    def is_due(self, step: int, num_steps: int) -> bool:
        """Return whether there is an evaluation behind `step` optimizer steps."""
        return step % self.training.eval_every == 0 or step == num_steps

    def evaluate(self, engine: Any, step: int) -> dict[str, float]:
        """Return the metrics of an evaluation behind `step` optimizer steps, and keep the weights if they are best.

        Every rank must call it.
        """
        metrics = evaluate_pairs(engine, self.objective, self.layout, when=f"after step {step}")
        assert metrics is not None, "there are held-back pairs"
        state = self.objective.state.record()
        named = {f"{PREFIX}{name}": value for name, value in metrics.items() if name not in (*state, "num_pairs")}
        # One rank decides for all: if sums differed in the last bit, ranks would part.
        value = torch.tensor(named[PREFIX + self.training.best_by], dtype=torch.float64, device=engine.device)
        if self.layout.world_size > 1:
            torch.distributed.broadcast(value, src=0)
        before = self.kept
        if self.evaluations.add(step, float(value)) and self.kept is not None:
            _write(engine, self.kept)
            if before is not None and torch.distributed.get_rank() == 0:
                # Checkpoints hold links of their own to the files that they need.
                shutil.rmtree(before, ignore_errors=True)
        return named

    def restore(self, rows: Sequence[str], checkpoint: Path | None) -> None:
        """Go on from the rows and the checkpoint of a resumed training. Every rank must call it.

        Args:
            rows: Metrics of the steps that were made, one JSON line per step.
            checkpoint: Directory of the best weights of these steps; None if the checkpoint has none.
        """
        for row in map(json.loads, rows):
            if (value := row.get(PREFIX + self.training.best_by)) is not None:
                self.evaluations.add(row["step"], value)
        if torch.distributed.get_rank() == 0:
            for other in self.directory.glob("best-*"):
                shutil.rmtree(other)
            if self.kept is not None:
                assert checkpoint is not None, "a checkpoint holds the best weights of its steps"
                link(checkpoint, self.kept)
        torch.distributed.barrier()

    @property
    def stopped(self) -> str | None:
        """Why the training ends before its last step; None if it goes on."""
        best = self.evaluations.best
        if best is None or not self.evaluations.is_over:
            return None
        return (
            f"{PREFIX}{self.training.best_by} was best behind step {best.step} ({best.value:.4f}) and not better in "
            f"{self.evaluations.num_since} evaluations since (training.patience)"
        )


def _write(engine: Any, directory: Path) -> None:
    """Publish the present values of what is trained, under a temporary name first. Every rank must call it."""
    temporary = directory.with_name(f".{directory.name}")
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    write_weights(trained_weights(engine), temporary)
    if torch.distributed.get_rank() == 0:
        inherit_mode(temporary)
        for file in temporary.iterdir():
            sync(file)
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(temporary, directory)
        sync(directory.parent)
    torch.distributed.barrier()


def load_kept(engine: Any, directory: Path) -> None:
    """Put the values that `HeldOut` kept into the engine. Every rank must call it."""
    for name, value in _read(sorted(directory.glob("*.safetensors"))):
        set_weight(engine, name, value)


def _read(files: Iterable[Path]) -> Iterable[tuple[str, torch.Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)
