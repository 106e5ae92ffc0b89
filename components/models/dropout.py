"""The dropout of an adapter: off in everything that is measured, and on in the passes that train. Knows peft's layers.

A policy is trained in evaluation mode (see `noise`), so that nothing of the model itself makes noise. The adapter's
dropout is the only exception. Its masks derive from a seed and the place in the training, never from what was drawn
before, so that a resumed training drops the same activations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from components.artifacts import derive_seed

ADAPTER = "default"
"""peft's name of the one adapter."""


class AdapterDropout:
    """Dropout on the inputs of every low-rank layer of a model."""

    def __init__(self, model: Any, share: float, *, seed: int, rank: int) -> None:
        """Give each layer of the adapter, fresh or loaded, a dropout that is off.

        Args:
            model: A model with a LoRA or DoRA adapter.
            share: Probability that an activation is dropped, above 0.
            seed: Seed of the training.
            rank: This process's rank; ranks train on different pairs and drop different activations.
        """
        from peft.tuners.lora import LoraLayer

        self.seed, self.rank, self.device = seed, rank, next(model.parameters()).device
        self.modules: list[torch.nn.Module] = []
        for layer in [module for module in model.modules() if isinstance(module, LoraLayer)]:
            layer.lora_dropout[ADAPTER] = torch.nn.Dropout(share).eval()
            # DoRA asks its layer whether it is in training. The layer's own weights do not.
            self.modules += [layer, layer.lora_dropout[ADAPTER]]
        model.peft_config[ADAPTER].lora_dropout = share

    @contextmanager
    def masks(self, step: int, micro_batch: int) -> Iterator[None]:
        """Drop activations within the block, which holds a micro-batch's forward and backward pass.

        The backward pass belongs into it: layers that compute their activations again must drop the same ones.

        Args:
            step: Optimizer step, from 0.
            micro_batch: Number of the micro-batch within the step.
        """
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.seed, "adapter dropout", step, micro_batch, self.rank))
            self._switch(on=True)
            try:
                yield
            finally:
                self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for module in self.modules:
            module.training = on
