"""How judged responses become preference pairs."""

from typing import Literal

from pydantic import Field

from components.config.section import Section


class PreferencesConfig(Section):
    """How judged responses become preference pairs."""

    pairs: Literal["best_worst", "best_random"] = "best_worst"
    """Which response is rejected: the worst of a prompt's samples, or one drawn at random among those worse than the best."""
    min_margin: float = Field(default=0.0, ge=0.0)
    """Least difference of judge scores between chosen and rejected; pairs at or below it are dropped, and so are ties."""
    soft_labels: Literal["none", "bradley_terry"] = "none"
    """`none`: every pair is certain (p = 1); `bradley_terry`: p = sigmoid(margin / soft_label_scale)."""
    soft_label_scale: float = Field(default=1.0, gt=0.0)
    """Margin, in judge score units, at which `bradley_terry` gives p = 0.73."""
    tag: str = "helpfulness"
    """Kind of preference that this judge's pairs express."""
    max_invalid_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of invalid verdicts above which the round stops."""
    seed_pairs: str = ""
    """A preference data set that is round 1's data (JSONL, Parquet or `datasets` name; prompt/chosen/rejected or HH transcripts); empty
    samples round 1 like the others."""
    seed_pairs_split: str = "train"
    """Split that is read when `seed_pairs` is a `datasets` name."""
