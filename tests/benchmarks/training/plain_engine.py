"""An engine of plain torch with the methods that the training step calls.

For one process on a machine without DeepSpeed.
"""

from typing import Any

import torch

from components.config import TrainingConfig


class PlainEngine(torch.nn.Module):
    """AdamW at a constant rate, with gradient clipping; its state may be of another precision than the model."""

    def __init__(self, model: Any, training: TrainingConfig, *, kept: torch.dtype) -> None:
        """Take over a model.

        Args:
            model: On its device.
            training: The learning rate, AdamW's numbers and the largest gradient norm.
            kept: Precision of the optimizer's state. If it is not that of the weights, the optimizer keeps its own
                copy of the weights, as DeepSpeed does in bfloat16.
        """
        super().__init__()
        self.module = model
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.own = [
            weight if weight.dtype == kept else weight.detach().to(kept).requires_grad_() for weight in self.trained
        ]
        betas = (0.9, training.adam_beta2)
        self.optimizer = torch.optim.AdamW(
            self.own, lr=training.learning_rate, betas=betas, weight_decay=training.weight_decay, fused=True
        )
        self.max_grad_norm = training.max_grad_norm

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the model's output."""
        return self.module(*inputs, **named)

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.trained[0].device

    def get_lr(self) -> list[float]:
        """Return the learning rate."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def set_gradient_accumulation_boundary(self, is_last: bool) -> None:
        """Do nothing: without other ranks, the last micro-batch has no special task."""

    def backward(self, loss: torch.Tensor) -> None:
        """Add to the gradients."""
        loss.backward()

    def zero_optimization_stage(self) -> int:
        """Return 0: nothing is sharded."""
        return 0

    def bfloat16_enabled(self) -> bool:
        """Return True: the step reads the norm from `get_global_grad_norm`."""
        return True

    @torch.no_grad()
    def step(self) -> None:
        """Clip the gradients, update the weights and drop the gradients."""
        for own, weight in zip(self.own, self.trained, strict=True):
            if own is not weight:
                own.grad, weight.grad = weight.grad.to(own.dtype), None
        self.norm = torch.nn.utils.clip_grad_norm_(self.own, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for own, weight in zip(self.own, self.trained, strict=True):
            if own is not weight:
                weight.copy_(own)

    def get_global_grad_norm(self) -> torch.Tensor:
        """Return the norm of the last step's gradients, before clipping."""
        return self.norm
