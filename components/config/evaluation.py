"""How a challenger is compared, and when it is promoted."""

from pydantic import Field

from components.config.section import Section


class EvaluationConfig(Section):
    """How challenger, champion and start are compared on held-out prompts."""

    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """Sampling temperature of the compared responses. KL to the start is between the two models at this temperature, so
    it grows as the temperature falls."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Level of the bootstrap intervals."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100000)
    """Resamples of the paired bootstrap over prompts."""
    num_samples: int = Field(default=24, ge=0)
    """Held-out prompts whose responses are kept side by side for reading."""


class GateConfig(Section):
    """When a challenger replaces the champion: the win rate's lower bound is above one half and no guard breaks."""

    max_length_ratio: float = Field(default=1.5, gt=0.0)
    """Guard: largest mean response length of the challenger, as a multiple of the champion's."""
    max_kl_to_start: float = Field(default=100.0, gt=0.0)
    """Guard: largest KL divergence from the start, in nats per response."""
    max_unfinished_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Guard: largest share of responses that are empty or cut by the length limit."""
