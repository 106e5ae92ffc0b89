"""Which two answers to a prompt may become a pair, and what the label of each pair is.

Pure; knows no builder, file or stage.

Answers of one text count as one answer. The better of two is the one with the higher score, so the pairs of a prompt
never contradict each other; where the judge's own word on the two says otherwise, they are tied.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import SCORE_NOISE, Group, Key, Verdict, conclusions, scores
from components.preferences.labels import TIED, label

Reason = Literal["ties", "below_margin", "no_verdict", "not_compared"]
"""Why a prompt gives no pair: no two different scores, none far enough apart, fewer than two scores at all, or none
that the judge compared where its word on exactly the two is needed."""


@dataclass(frozen=True)
class JudgedAnswer:
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
    answers: tuple[JudgedAnswer, ...]
    """Those with a score, each text once, by sample_id."""
    comparisons: Mapping[tuple[int, int], float]
    """Probability that the first is better than the second, by their `sample_id`, in both orders; empty where the judge
    scores alone."""

    @property
    def num_scored(self) -> int:
        """Responses with a score."""
        return sum(len(answer.sample_ids) for answer in self.answers)


class Pair(NamedTuple):
    """Two answers to one prompt, the first preferred."""

    chosen: JudgedAnswer
    rejected: JudgedAnswer
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


def _related(
    prompt: JudgedPrompt, one: JudgedAnswer, other: JudgedAnswer, preferences: PreferencesConfig
) -> Pair | Reason:
    better, worse = sorted((one, other), key=lambda answer: (-answer.score, answer.sample_id))
    said = prompt.comparisons.get((better.sample_id, worse.sample_id))
    if said is None and preferences.soft_labels == "verdict":
        return "not_compared"
    if math.isclose(better.score, worse.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE) or (
        said is not None and said <= TIED
    ):
        return Pair(better, worse, TIED, tied=True) if preferences.ties == "half" else "ties"
    margin = better.score - worse.score
    if margin <= preferences.min_margin:
        return "below_margin"
    return Pair(better, worse, label(margin, said, preferences))


Compared = Mapping[tuple[int, int], float]
"""Mean probability that the first sample is better than the second, in both orders."""


def judged_prompts(groups: Sequence[Group], verdicts: Sequence[Verdict]) -> list[JudgedPrompt]:
    """One for each group, in order."""
    scored, compared = scores(verdicts), _compared(verdicts)
    return [_judged(group, scored, compared.get(group.prompt_id, {})) for group in groups]


def _judged(group: Group, scored: Mapping[Key, float], compared: Compared) -> JudgedPrompt:
    said: defaultdict[str, list[tuple[int, str, float]]] = defaultdict(list)
    for sample_id, text in group.responses:
        if (group.prompt_id, sample_id) in scored:
            said[text.strip()].append((sample_id, text, scored[group.prompt_id, sample_id]))
    answers = tuple(_answer(responses) for responses in said.values())
    comparisons = {}
    for one, other in combinations(answers, 2):
        found = [
            compared[first, second]
            for first in one.sample_ids
            for second in other.sample_ids
            if (first, second) in compared
        ]
        if found:
            comparisons[one.sample_id, other.sample_id] = math.fsum(found) / len(found)
            comparisons[other.sample_id, one.sample_id] = 1 - comparisons[one.sample_id, other.sample_id]
    return JudgedPrompt(group.prompt_id, answers, comparisons)


def _answer(responses: Sequence[tuple[int, str, float]]) -> JudgedAnswer:
    """Responses that differ in outer white space at most, as one answer: the first one's text, and their mean score."""
    given = [score for _, _, score in responses]
    mean = given[0] if len(set(given)) == 1 else math.fsum(given) / len(given)
    return JudgedAnswer(tuple(sample_id for sample_id, _, _ in responses), responses[0][1], mean)


def _compared(verdicts: Sequence[Verdict]) -> dict[str, dict[tuple[int, int], float]]:
    found: defaultdict[str, defaultdict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for verdict in conclusions(verdicts):
        if verdict.opponent_id is not None and verdict.score is not None:
            found[verdict.prompt_id][verdict.sample_id, verdict.opponent_id].append(verdict.score)
            found[verdict.prompt_id][verdict.opponent_id, verdict.sample_id].append(1 - verdict.score)
    return {name: {two: math.fsum(said) / len(said) for two, said in pairs.items()} for name, pairs in found.items()}
