"""Pair rules: which of a prompt's scored responses are chosen and rejected. Pure; knows no judge, file or stage.

A pair's scores differ by more than `min_margin`, and its texts differ. Equal scores and equal texts never become a pair.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from components.config import PreferencesConfig

SCORE_NOISE = 1e-9
"""Scores this close (relative to their size) are equal: the order of a sum must not turn a tie into a preference."""


@dataclass(frozen=True)
class ScoredSample:
    """A response with the judge's score of it."""

    sample_id: int
    text: str
    score: float


class Pair(NamedTuple):
    """Two responses to one prompt, the first preferred."""

    chosen: ScoredSample
    rejected: ScoredSample

    @property
    def margin(self) -> float:
        """Difference of the scores, in the judge's units; positive."""
        return self.chosen.score - self.rejected.score


Outcome = Pair | Literal["ties", "below_margin", "no_verdict"]
"""A pair, or why a prompt gives none: no two different scores, none far enough apart, or fewer than two scores at all."""
Builder = Callable[[Sequence[ScoredSample], float, int], Outcome]
"""(samples of one prompt, min_margin, seed) -> outcome."""


def best_worst(samples: Sequence[ScoredSample], min_margin: float, seed: int) -> Outcome:
    """Takes the best response and the worst; among equals the first sampled."""
    found = _best_and_worse(samples, min_margin)
    if not isinstance(found, tuple):
        return found
    best, worse = found
    return Pair(best, min(worse, key=lambda sample: (sample.score, sample.sample_id)))


def best_random(samples: Sequence[ScoredSample], min_margin: float, seed: int) -> Outcome:
    """Takes the best response, and one drawn at random among those worse by more than `min_margin`."""
    found = _best_and_worse(samples, min_margin)
    if not isinstance(found, tuple):
        return found
    best, worse = found
    return Pair(best, random.Random(seed).choice(sorted(worse, key=lambda sample: sample.sample_id)))


BUILDERS: dict[str, Builder] = {"best_worst": best_worst, "best_random": best_random}


def soft_label(margin: float, preferences: PreferencesConfig) -> float:
    """Probability p that chosen is really preferred, from the margin of the scores.

    `bradley_terry`: p = sigmoid(margin / scale) (Bradley and Terry 1952); `none`: 1.
    """
    return LABELS[preferences.soft_labels](margin / preferences.soft_label_scale)


def _certain(margin: float) -> float:
    return 1.0


def _sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-margin)) if margin >= 0 else math.exp(margin) / (1 + math.exp(margin))


LABELS: dict[str, Callable[[float], float]] = {"none": _certain, "bradley_terry": _sigmoid}


def _best_and_worse(
    samples: Sequence[ScoredSample], min_margin: float
) -> tuple[ScoredSample, list[ScoredSample]] | Literal["ties", "below_margin", "no_verdict"]:
    """The best response and the others that may be rejected for it, of which there is at least one."""
    if len(samples) < 2:
        return "no_verdict"
    best = min(samples, key=lambda sample: (-sample.score, sample.sample_id))
    worse = [
        sample
        for sample in samples
        if sample.text.strip() != best.text.strip() and not math.isclose(sample.score, best.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
    ]
    if not worse:
        return "ties"
    eligible = [sample for sample in worse if best.score - sample.score > min_margin]
    return (best, eligible) if eligible else "below_margin"
