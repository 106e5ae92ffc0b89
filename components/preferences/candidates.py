"""Which two answers to a prompt may become a pair, and what the label of each pair is. Pure; knows no builder, file or stage.

Answers of one text count as one answer. The better of two is the one with the higher score, so the pairs of a prompt never
contradict each other; where the judge's own word on the two says otherwise, they are tied.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import SCORE_NOISE
from components.preferences.labels import TIED, label

Reason = Literal["ties", "below_margin", "no_verdict", "not_compared"]
"""Why a prompt gives no pair: no two different scores, none far enough apart, fewer than two scores at all, or none that the judge
compared where its word on exactly the two is needed."""


@dataclass(frozen=True)
class Answer:
    """A text that answers a prompt, with the judge's score of it."""

    sample_ids: tuple[int, ...]
    """The responses that say so, the first sampled first."""
    text: str
    score: float

    @property
    def sample_id(self) -> int:
        """The first of them."""
        return self.sample_ids[0]


@dataclass(frozen=True)
class JudgedPrompt:
    """The answers to a prompt and what the judge said of them."""

    prompt_id: str
    answers: tuple[Answer, ...]
    """Those with a score, each text once, by sample_id."""
    comparisons: Mapping[tuple[int, int], float]
    """Probability that the first is better than the second, by their `sample_id`, in both orders; empty where the judge scores alone."""

    @property
    def num_scored(self) -> int:
        """Responses with a score."""
        return sum(len(answer.sample_ids) for answer in self.answers)


class Pair(NamedTuple):
    """Two answers to one prompt, the first preferred."""

    chosen: Answer
    rejected: Answer
    p: float
    """Probability that chosen is really better, in [0.5, 1]."""
    tied: bool = False
    """Whether neither is better."""

    @property
    def margin(self) -> float:
        """Difference of the scores, in the judge's units; not negative but for noise."""
        return max(self.chosen.score - self.rejected.score, 0.0)


class Candidates(NamedTuple):
    """The pairs that a prompt offers, of which there is at least one."""

    prompt: JudgedPrompt
    decided: tuple[Pair, ...]
    """One answer is better by more than the margin."""
    tied: tuple[Pair, ...]
    """Neither is better, p = 0.5; empty unless ties are kept."""

    @property
    def clearest(self) -> tuple[Pair, ...]:
        """The decided pairs, or the tied ones where none is decided."""
        return self.decided or self.tied


def candidates(prompt: JudgedPrompt, preferences: PreferencesConfig) -> Candidates | Reason:
    """The pairs that a prompt offers, or why it offers none."""
    if prompt.num_scored < 2:
        return "no_verdict"
    found = [_related(prompt, *two, preferences) for two in combinations(prompt.answers, 2)]
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    decided, tied = (tuple(pair for pair in pairs if pair.tied == is_tied) for is_tied in (False, True))
    if decided or tied:
        return Candidates(prompt, decided, tied)
    reasons: tuple[Reason, ...] = ("below_margin", "not_compared")
    return next((reason for reason in reasons if reason in found), "ties")


def _related(prompt: JudgedPrompt, one: Answer, other: Answer, preferences: PreferencesConfig) -> Pair | Reason:
    better, worse = sorted((one, other), key=lambda answer: (-answer.score, answer.sample_id))
    said = prompt.comparisons.get((better.sample_id, worse.sample_id))
    if said is None and preferences.soft_labels == "verdict":
        return "not_compared"
    if math.isclose(better.score, worse.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE) or (said is not None and said <= TIED):
        return Pair(better, worse, TIED, tied=True) if preferences.ties == "half" else "ties"
    margin = better.score - worse.score
    if margin <= preferences.min_margin:
        return "below_margin"
    return Pair(better, worse, label(margin, said, preferences))
