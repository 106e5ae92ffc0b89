"""How a model is trained on demonstrations."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from components.config.policy import LoraConfig, check_template_settings
from components.config.section import Section
from components.config.training import TrainingConfig


def _usual_rate(values: dict[str, Any]) -> float:
    return 1e-4 if values["lora"].rank else 1e-5


class SftSettings(Section):
    """How a model is trained on demonstrations, alone or before a campaign's rounds."""

    train_on: Literal["all", "last"] = "all"
    """Turns that are trained on: all of the assistant's, or only the last of each conversation. The end token behind
    each is trained on, what others say never."""
    max_tokens: int = Field(default=2048, ge=2)
    """Longest conversation in tokens; longer ones are left out and counted, never cut."""
    eval_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the first prompts whose conversations measure the loss instead of being trained on."""
    require_improvement: bool = True
    """Refuses to publish a model whose loss on the held-out conversations did not fall."""
    lora: LoraConfig = LoraConfig()
    """Adapter that is trained instead of all weights. It is merged into the published model."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the demonstrations."""
    learning_rate: float = Field(default_factory=_usual_rate, gt=0.0, le=1.0)
    """Peak learning rate of AdamW. Left out, it is 1e-5, and 1e-4 for an adapter."""
    warmup_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises linearly."""
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    """Learning rate behind the warm-up: `linear` and `cosine` fall to zero."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this global L2 norm."""
    rows_per_step: int = Field(default=16, ge=1)
    """Conversations in one optimizer step, over all ranks and micro-batches."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens in one pass with gradients on a rank; 0: 8192 on a GPU, 1024 (bf16: 1536) on a CPU. A longer conversation
    is alone."""
    micro_batch_rows: int = Field(default=0, ge=0)
    """Conversations in one pass with gradients on a rank; 0 sets no limit but the tokens."""
    gradient_checkpointing: bool = False
    """Recomputes activations in the backward pass: less memory, about a third more time."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is sharded over the ranks."""
    num_processes: int = Field(default=0, ge=0)
    """Training processes on this machine; 0 takes one for each visible GPU, or one on a CPU."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between checkpoints that a killed run resumes from."""

    @property
    def training(self) -> TrainingConfig:
        """The same as a training section, which the engine and its loop read."""
        shared = TrainingConfig.model_fields.keys() & SftSettings.model_fields.keys()
        return TrainingConfig(**{name: getattr(self, name) for name in shared})


class SftConfig(SftSettings):
    """How `ratchet sft` trains on demonstrations, the first step of RLHF (Ouyang et al. 2022, arXiv 2203.02155)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision; `auto` is bfloat16 where the hardware computes in it natively."""
    chat_template_arguments: dict[str, JsonValue] = {}
    """Arguments of the model's chat template, by name, such as `{enable_thinking: false}` for answers without a
    thought."""
    template_date: str = Field(default="", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
    """Date (YYYY-MM-DD) that a chat template which writes today's date reads; empty takes the day of the start."""
    seed: int = Field(default=1, ge=0)
    """Draws the held-out prompts, the order of the conversations and the adapter's first weights."""

    @model_validator(mode="after")
    def _template_takes_them(self) -> Self:
        check_template_settings(self.chat_template_arguments, self.template_date)
        return self


class CampaignSftConfig(SftSettings):
    """Training of the start model on demonstrations, before the first round; round 0 is then the trained model."""

    PATHS: ClassVar[tuple[str, ...]] = ("demonstrations",)

    demonstrations: str = ""
    """Demonstrations, in a form of `ratchet sft`; those of held-out prompts are left out. Empty trains on none:
    `policy.model` is round 0."""
    demonstrations_split: str = "train"
    """Split of `demonstrations`, if it has splits."""

    @model_validator(mode="after")
    def _something_reads_them(self) -> Self:
        given = self.model_dump(exclude={"demonstrations"})
        defaults = {name: CampaignSftConfig.model_fields[name].get_default() for name in given}
        defaults |= {"lora": LoraConfig().model_dump(), "learning_rate": _usual_rate({"lora": LoraConfig()})}
        odd = [name for name, value in given.items() if value != defaults[name]]
        if odd and not self.demonstrations:
            raise ValueError(f"{odd[0]} has no effect without demonstrations: set `demonstrations`, or leave it out")
        return self
