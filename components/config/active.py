"""The choice of the pairs that a second, costly judge is asked about."""

from typing import Literal

from pydantic import Field

from components.config.judge import JudgeConfig
from components.config.section import Section


class ActiveConfig(Section):
    """A costly judge for the pairs that the judge is least sure of."""

    judge: JudgeConfig = JudgeConfig()
    """The costly judge: its word on a pair replaces the judge's."""
    budget: int = Field(default=0, ge=0)
    """Pairs of a round that it is asked about; 0 asks about none."""
    choose_by: Literal["random", "disagreement", "closeness", "both"] = "disagreement"
    """Which pairs: `disagreement`, where the judge (a jury, best) is nearest to one half; `closeness`, where the
    policy's implicit rewards are nearest to each other, which say nothing until a round is promoted; `both`, by the
    mean of the two ranks; or drawn at `random`."""
    shortlist: float = Field(default=1.0, ge=1.0, le=100.0)
    """Diversity: of this many times the budget of first-ranked pairs, those least alike are asked about; 1 takes the
    first-ranked."""
    rest: Literal["keep", "drop"] = "keep"
    """Pairs that the costly judge is not asked about, or cannot judge, keep the judge's label or are dropped."""
