"""How judged responses become preference pairs."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.config.feedback import FeedbackConfig
from components.config.section import Section

FROM_DEMONSTRATIONS = frozenset({"spin", "ditto"})
"""Pairs that are built from demonstrations."""


class PreferencesConfig(Section):
    """How judged responses become preference pairs."""

    pairs: Literal[
        "best_worst",
        "best_random",
        "all_pairs",
        "top_k",
        "length_balanced",
        "nash",
        "unpaired",
        "revised",
        "spin",
        "ditto",
    ] = "best_worst"
    """Which responses become pairs. `best_worst`: the best and the worst; `best_random`: the best and one drawn among
    the worse; `all_pairs`: every two; `top_k`: each of the best and the worst of the rest; `length_balanced`: one pair
    a prompt such that over the round chosen is as long as rejected; `nash`: best and worst by their win rate against
    the policy's other answers, p from it; `unpaired`: each response alone, desirable or not, for the losses `kto` and
    `apo_zero_unpaired`; `revised`: what the constitution's model makes of the worst (Bai et al. 2022, arXiv
    2212.08073), and the worst. Without a judge, from `demonstrations`: `spin`: each demonstration over the policy's own
    answers to its prompt (arXiv 2401.01335); `ditto`: for a handful of demonstrations, these over the answers of this
    and of earlier rounds, and later rounds' answers over earlier ones' (arXiv 2406.00888)."""
    top_k: int = Field(default=2, ge=1)
    """How many of a prompt's best responses are chosen, when `pairs` is `top_k`."""
    threshold: Literal["median", "mean", "value"] = "median"
    """Score above which a response is desirable, when `pairs` is `unpaired`: of all the round's responses, or
    `threshold_value`."""
    threshold_value: float = 0.0
    """The score itself, when `threshold` is `value`."""
    min_margin: float = Field(default=0.0, ge=0.0)
    """Least difference of judge scores between chosen and rejected (of win shares, for a judge that compares and for
    `nash`); pairs at or below it are dropped. In `unpaired`, the least distance from the threshold."""
    ties: Literal["drop", "half"] = "drop"
    """Two responses that the judge finds equal, or whose two orders disagree, give no pair (`drop`) or a pair with p =
    0.5 (`half`)."""
    soft_labels: Literal["none", "bradley_terry", "verdict"] = "none"
    """`none`: every pair is certain (p = 1); `bradley_terry`: p = sigmoid(margin / soft_label_scale); `verdict`: p is
    what the judge concluded about exactly these two, and two that it did not compare give no pair."""
    soft_label_scale: float = Field(default=1.0, gt=0.0)
    """Margin, in judge score units, at which `bradley_terry` gives p = 0.73."""
    cut_responses: Literal["any", "rejected"] = "any"
    """Which side of a pair a response may be on that the length limit cut: `any`, or only `rejected`; in `unpaired` it
    is then never desirable. Answers from outside count as whole."""
    tag: str = "helpfulness"
    """Kind of preference that this judge's pairs express."""
    max_invalid_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of invalid verdicts above which the round stops."""
    min_position_consistency: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of comparisons whose two orders agree; with its whole interval below this the round stops. A coin has 0.5;
    0 sets no limit."""
    min_repetition_stability: float = Field(default=0.6, ge=0.0, le=1.0)
    """Share of repeated questions answered alike; with its whole interval below this the round stops. A coin has 0.5; 0
    sets no limit."""
    max_tie_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of ties; with its whole interval above this the round stops. 1 sets no limit."""
    max_length_preference: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of comparisons won by the longer answer; with its whole interval above this the round stops. 1 sets no
    limit: longer may be better."""
    seed_pairs: str = ""
    """A preference data set that is round 1's data (JSONL, CSV, Parquet or `datasets` name, in any form of
    docs/preference-data.md); empty samples round 1 like the others."""
    seed_pairs_split: str = "train"
    """Split that is read when `seed_pairs` is a `datasets` name."""

    seed_pairs_revision: str = ""
    """Hub revision (branch, tag or commit) of `seed_pairs`; empty is `main`. A campaign stays at the commit with which
    it began."""
    feedback: FeedbackConfig = FeedbackConfig()
    demonstrations: str = ""
    """Demonstrations for `pairs` spin and ditto, in a form of `ratchet sft`. Their prompts are sampled in place of
    `prompts.train`; those of held-out prompts are left out."""
    demonstrations_split: str = "train"
    """Split that is read when `demonstrations` is a `datasets` name."""
    demonstrations_revision: str = ""
    """Hub revision (branch, tag or commit) of `demonstrations`; as `seed_pairs_revision`."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = (
        "cut_responses",
        "seed_pairs_revision",
        "feedback",
        "demonstrations",
        "demonstrations_split",
        "demonstrations_revision",
    )
    PATHS: ClassVar[tuple[str, ...]] = ("seed_pairs", "demonstrations")

    @property
    def takes_demonstrations(self) -> bool:
        """Whether pairs are built from demonstrations, so that no judge makes them."""
        return self.pairs in FROM_DEMONSTRATIONS

    @property
    def gives_soft_labels(self) -> bool:
        """Whether a pair's p may be other than 1."""
        noisy_thumbs = self.feedback.use != "off" and self.feedback.noise > 0
        return self.soft_labels != "none" or self.ties == "half" or self.pairs == "nash" or noisy_thumbs

    def samples_in(self, round: int) -> bool:
        """Return whether a round samples responses; else its data come from outside."""
        return self.feedback.use != "only" and not (round == 1 and self.seed_pairs)

    @model_validator(mode="after")
    def _demonstrations_are_there(self) -> Self:
        if self.takes_demonstrations and not self.demonstrations:
            raise ValueError(
                f"pairs {self.pairs} is built from demonstrations: name them with `demonstrations: FILE`, or choose "
                "other pairs"
            )
        if self.demonstrations and not self.takes_demonstrations:
            raise ValueError(
                f"demonstrations are given, and pairs {self.pairs} reads none: set `pairs: spin`, or `pairs: ditto` "
                "for fewer than ten (to train on them before the rounds, `sft: {demonstrations: ...}`)"
            )
        if not self.takes_demonstrations:
            return self
        if self.soft_labels != "none" or self.ties == "half" or self.min_margin:
            raise ValueError(
                f"pairs {self.pairs} has no scores and no ties: leave `soft_labels`, `ties` and `min_margin` out"
            )
        if self.feedback.use == "only":
            raise ValueError(
                f"pairs {self.pairs} is never built with feedback.use only: set `feedback: {{use: with_round}}`"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit_the_pairs(self) -> Self:
        if self.pairs == "nash" and self.soft_labels != "none":
            raise ValueError("pairs nash takes p from the win rates: leave `soft_labels` out")
        if self.pairs == "unpaired" and (self.soft_labels == "verdict" or self.ties == "half"):
            raise ValueError(
                "pairs unpaired compares no responses: set `soft_labels` to none or bradley_terry, and `ties: drop`"
            )
        if self.pairs == "revised" and (self.soft_labels != "none" or self.ties == "half"):
            raise ValueError("pairs revised has no margins and no ties: leave `soft_labels` and `ties` out")
        return self
