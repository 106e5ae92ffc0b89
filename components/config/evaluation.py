"""How a challenger is compared, and when it is promoted."""

from typing import ClassVar

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
    start_prompts: int = Field(default=64, ge=0)
    """Held-out prompts on which round 0 samples the start model, to tell how many of its responses are cut or empty
    before hours are spent; 64 know a share to within 13 points. At most `prompts.num_held_out`; 0 samples none."""
    nodes: int = Field(default=1, ge=1)
    """Machines that share the held-out prompts, started by the `launcher`, with `generation.num_processes` on each."""
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"start_prompts", "nodes"})


class GateConfig(Section):
    """When a challenger replaces the champion: the win rate's lower bound is above one half and no guard breaks."""

    max_length_ratio: float = Field(default=1.5, gt=0.0)
    """Guard: largest mean response length of the challenger, as a multiple of the champion's."""
    min_length_ratio: float = Field(default=0.5, ge=0.0)
    """Guard: smallest mean response length of the challenger, as a multiple of the champion's; 0 sets no limit. Judges
    that learnt from people who prefer shorter answers can be won by answers of a few words."""
    max_kl_to_start: float = Field(default=100.0, gt=0.0)
    """Guard: largest KL divergence from the start, in nats per response."""
    max_unfinished_increase: float = Field(default=0.05, ge=0.0, le=1.0)
    """Guard: a challenger is refused if its share of responses that are empty or cut by the length limit exceeds the
    champion's on the same prompts by more than this, and surely exceeds it; 1 sets no limit."""
    max_unfinished_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Guard: largest share of the challenger's responses that are empty or cut, whatever the champion's is; 1 sets no
    limit."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("max_unfinished_increase", "min_length_ratio")
    FORMER_DEFAULTS: ClassVar[dict[str, float]] = {
        "max_unfinished_share": 0.2,
        "max_unfinished_increase": 1.0,
        "min_length_ratio": 0.0,
    }
    """Behaviour of 0.1: an absolute limit on unfinished answers, and none on short ones. A campaign that began with it
    keeps it, as long as its configuration leaves the keys out."""
