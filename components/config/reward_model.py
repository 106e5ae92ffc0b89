"""How a reward model is trained on preference pairs."""

from typing import Literal

from pydantic import Field

from components.config.section import Section
from components.config.training import TrainingConfig


class RewardModelConfig(Section):
    """How a reward model is trained on preference pairs (Ouyang et al. 2022, arXiv 2203.02155)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; `auto` is bfloat16 where the hardware computes in it natively."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest prompt plus answer in tokens; pairs with a longer one are left out and counted, never cut."""
    eval_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the prompts whose pairs measure accuracy and calibration instead of being trained on."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs; more than one or two overfit quickly."""
    learning_rate: float = Field(default=1e-5, gt=0.0, le=1.0)
    """Peak learning rate of AdamW."""
    head_learning_rate: float = Field(default=3e-3, gt=0.0, le=1.0)
    """The same for a fresh head. It begins at zero, and until it has grown no gradient reaches the model."""
    pairs_per_step: int = Field(default=16, ge=1)
    """Pairs in one optimizer step, over all ranks and micro-batches."""
    micro_batch_pairs: int = Field(default=8, ge=1)
    """Pairs in one forward and backward pass on one rank; lower it when memory runs out."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is sharded over the ranks."""
    num_processes: int = Field(default=0, ge=0)
    """Training processes on this machine; 0 takes one for each visible GPU, or one on a CPU."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between checkpoints that a killed run resumes from."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Level of the accuracy's interval."""
    min_accuracy: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Accuracy on held-out pairs that the lower end of its interval must exceed, or the model is not published; 0
    publishes any. A coin has 0.5."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100_000)
    """Resamples of that interval's bootstrap over prompts."""
    seed: int = Field(default=1, ge=0)
    """Draws the held-out prompts and the order of the pairs."""

    @property
    def training(self) -> TrainingConfig:
        """The same as a training section, which the engine and its loop read."""
        shared = TrainingConfig.model_fields.keys() & RewardModelConfig.model_fields.keys()
        return TrainingConfig(**{name: getattr(self, name) for name in shared})
