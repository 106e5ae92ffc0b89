"""Who decides which response is better."""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.config.section import Section


class JudgeConfig(Section):
    """Who decides which response is better."""

    kind: Literal["rule", "reward_model"] = "rule"
    """`rule`: an allow-listed Python function; `reward_model`: a sequence-classification model with one output."""
    rule: str = "support_reply"
    """Name of the rule, when `kind` is `rule`."""
    model: str = ""
    """Local directory or hub name of the reward model, when `kind` is `reward_model`."""
    revision: str = "main"
    """Hub revision of the reward model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the reward model; `auto` as for the policy."""
    batch_size: int = Field(default=16, ge=1)
    """Texts the reward model reads together."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest prompt plus response the reward model reads, in tokens; a longer one gets an invalid verdict, never a score of its start."""

    @model_validator(mode="after")
    def _reward_model_is_named(self) -> Self:
        if self.kind == "reward_model" and not self.model:
            raise ValueError("kind reward_model needs a model: name a local directory or a hub model in `model`")
        return self
