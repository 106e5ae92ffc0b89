"""People as judges: how many look at a pair, how long the round waits for them, and how their votes become one."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from components.config.section import Section


class PeopleConfig(Section):
    """What people are asked, and when their votes suffice."""

    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"quota", "deadline_hours"})
    """What no vote depends on: a start may change it while the round waits."""
    PATHS: ClassVar[tuple[str, ...]] = ("rubric", "gold")
    rubric: str = "people"
    """What people read beside the answers: `people` (ours), or a Markdown file of yours."""
    votes_per_pair: int = Field(default=1, ge=1, le=25)
    """People who vote on each pair."""
    overlap_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the pairs, chosen by content, on which `overlap_votes` people vote, so that their agreement is
    measured."""
    overlap_votes: int = Field(default=2, ge=2, le=25)
    """People who vote on each pair of that share."""
    quota: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the pairs that must have all their votes before the round goes on. Pairs without a vote then give no
    training pair."""
    deadline_hours: float = Field(default=0.0, ge=0.0)
    """Hours after which the round goes on with the votes that there are; 0 waits for the quota however long."""
    min_share: float = Field(default=0.25, ge=0.0, le=1.0)
    """Share of the pairs that must have a vote at the deadline; with fewer the round stops until `deadline_hours` is
    raised."""
    gold: str = ""
    """A preference file whose better answers are known (any form of docs/preference-data.md); people get its pairs
    among the others, and cannot tell them apart. Empty asks none."""
    gold_share: float = Field(default=0.1, gt=0.0, le=0.5)
    """Share of what a person sees that are such pairs, if there is `gold`."""
    min_gold_accuracy: float = Field(default=0.6, ge=0.0, le=1.0)
    """Share of right answers to `gold` that a person must reach to be counted; whose whole interval is below it, their
    votes are left out. A coin has 0.5."""
    aggregation: Literal["auto", "majority", "dawid_skene"] = "auto"
    """How the votes on a pair become one probability: `majority`, their share; `dawid_skene`, where each person's
    reliability is estimated over all pairs; `auto` is `dawid_skene` if at least three people voted on 20 pairs each and
    the median pair has three votes."""
    checks_judge: bool = True
    """Whether the judge of the evaluation also judges what people decided, so that its agreement with people is
    measured in each round. A chat endpoint is asked, and paid, for it."""

    @model_validator(mode="after")
    def _overlap_is_more(self) -> Self:
        if self.overlap_share and self.overlap_votes < self.votes_per_pair:
            raise ValueError(
                f"overlap_votes is {self.overlap_votes} and votes_per_pair {self.votes_per_pair}: raise "
                "`overlap_votes`, or set `overlap_share: 0`"
            )
        return self
