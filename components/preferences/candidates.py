"""Which two answers to a prompt may become a pair, and the label of each pair.

Pure; knows no builder, file or stage.

Responses with the same text count as one answer. The better of two answers is the one with the higher score, so the
pairs of a prompt never contradict each other. If the judge's own comparison of the two says otherwise, they are tied.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import SCORE_NOISE, Group, Key, Verdict, conclusions, scores
from components.preferences.labels import TIED, label

Reason = Literal["ties", "below_margin", "no_verdict", "not_compared", "chosen_cut"]
"""Why a prompt gives no pair: no two different scores, none far enough apart, fewer than two scores, or no two answers
that the judge compared although the label needs that comparison, or the limit cut every answer that would be chosen."""


@dataclass(frozen=True)
class JudgedAnswer:
    """A text that answers a prompt, with the judge's score of it."""

    sample_ids: tuple[int, ...]
    """The responses with this text, the first sampled first."""
    text: str
    score: float
    never_chosen: bool = False
    """Whether the length limit cut it, and `preferences.cut_responses` lets such an answer be rejected only."""

    @property
    def sample_id(self) -> int:
        """The first of `sample_ids`."""
        return self.sample_ids[0]


@dataclass(frozen=True)
class JudgedPrompt:
    """The answers to a prompt with the judge's scores and comparisons."""

    prompt_id: str
    answers: tuple[JudgedAnswer, ...]
    """Answers with a score, each text once, by sample_id."""
    comparisons: Mapping[tuple[int, int], float]
    """Probability that the first is better than the second, by their `sample_id`, in both orders; empty if the judge
    scores each response alone."""

    @property
    def num_scored(self) -> int:
        """Number of responses with a score."""
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
        """Difference of the scores, in the judge's units; never negative."""
        return max(self.chosen.score - self.rejected.score, 0.0)


class Candidates(NamedTuple):
    """The pairs that a prompt offers, at least one."""

    prompt: JudgedPrompt
    decided: tuple[Pair, ...]
    """Pairs whose better answer leads by more than the margin."""
    tied: tuple[Pair, ...]
    """Pairs of which neither answer is better, p = 0.5; empty unless ties are kept."""

    @property
    def clearest(self) -> tuple[Pair, ...]:
        """The decided pairs, or the tied ones if none is decided."""
        return self.decided or self.tied


def candidates(prompt: JudgedPrompt, preferences: PreferencesConfig) -> Candidates | Reason:
    """Return the pairs that a prompt offers, or the reason if it offers none."""
    if prompt.num_scored < 2:
        return "no_verdict"
    results = [_pair_or_reason(prompt, *two, preferences) for two in combinations(prompt.answers, 2)]
    pairs = [pair for pair in results if isinstance(pair, Pair)]
    decided, tied = (tuple(pair for pair in pairs if pair.tied == is_tied) for is_tied in (False, True))
    if decided or tied:
        return Candidates(prompt, decided, tied)
    reasons: tuple[Reason, ...] = ("chosen_cut", "below_margin", "not_compared")
    return next((reason for reason in reasons if reason in results), "ties")


def _pair_or_reason(
    prompt: JudgedPrompt, first: JudgedAnswer, second: JudgedAnswer, preferences: PreferencesConfig
) -> Pair | Reason:
    better, worse = sorted((first, second), key=lambda answer: (-answer.score, answer.sample_id))
    verdict_p = prompt.comparisons.get((better.sample_id, worse.sample_id))
    if verdict_p is None and preferences.soft_labels == "verdict":
        return "not_compared"
    if math.isclose(better.score, worse.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE) or (
        verdict_p is not None and verdict_p <= TIED
    ):
        if preferences.ties == "drop":
            return "ties"
        # Neither side is better, so the whole one is chosen.
        first, second = sorted((better, worse), key=lambda answer: answer.never_chosen)
        return "chosen_cut" if first.never_chosen else Pair(first, second, TIED, tied=True)
    margin = better.score - worse.score
    if margin <= preferences.min_margin:
        return "below_margin"
    if better.never_chosen:
        return "chosen_cut"
    return Pair(better, worse, label(margin, verdict_p, preferences))


def largest_margin(prompt: JudgedPrompt, preferences: PreferencesConfig) -> float:
    """Return the largest margin between two answers that `preferences.min_margin` left out; 0 if it left out none."""
    pairs = combinations(prompt.answers, 2)
    below = [two for two in pairs if _pair_or_reason(prompt, *two, preferences) == "below_margin"]
    return max((abs(first.score - second.score) for first, second in below), default=0.0)


WinProbs = Mapping[tuple[int, int], float]
"""Mean probability that the first sample is better than the second, in both orders."""


def judged_prompts(
    groups: Sequence[Group], verdicts: Sequence[Verdict], preferences: PreferencesConfig
) -> list[JudgedPrompt]:
    """Return one judged prompt per group, in order."""
    scored, win_probs = scores(verdicts), _win_probs(verdicts)
    return [_judged(group, scored, win_probs.get(group.prompt_id, {}), preferences) for group in groups]


def never_chosen(group: Group, sample_id: int, preferences: PreferencesConfig) -> bool:
    """Whether a response must not be chosen, because the length limit cut it."""
    tokens = group.tokens.get(sample_id)
    return preferences.cut_responses == "rejected" and tokens is not None and tokens.finish_reason == "length"


def _judged(
    group: Group, scored: Mapping[Key, float], win_probs: WinProbs, preferences: PreferencesConfig
) -> JudgedPrompt:
    responses_of_text: defaultdict[str, list[tuple[int, str, float]]] = defaultdict(list)
    for sample_id, text in group.responses:
        if (group.prompt_id, sample_id) in scored:
            responses_of_text[text.strip()].append((sample_id, text, scored[group.prompt_id, sample_id]))
    merged = [_answer(responses) for responses in responses_of_text.values()]
    # A pair carries the tokens of the first response with its text.
    answers = tuple(
        replace(answer, never_chosen=never_chosen(group, answer.sample_id, preferences)) for answer in merged
    )
    comparisons = {}
    for one, other in combinations(answers, 2):
        probs = [
            win_probs[first, second]
            for first in one.sample_ids
            for second in other.sample_ids
            if (first, second) in win_probs
        ]
        if probs:
            comparisons[one.sample_id, other.sample_id] = math.fsum(probs) / len(probs)
            comparisons[other.sample_id, one.sample_id] = 1 - comparisons[one.sample_id, other.sample_id]
    return JudgedPrompt(group.prompt_id, answers, comparisons)


def _answer(responses: Sequence[tuple[int, str, float]]) -> JudgedAnswer:
    """Merge responses that differ in outer white space at most: the first one's text, and their mean score."""
    own_scores = [score for _, _, score in responses]
    mean = own_scores[0] if len(set(own_scores)) == 1 else math.fsum(own_scores) / len(own_scores)
    return JudgedAnswer(tuple(sample_id for sample_id, _, _ in responses), responses[0][1], mean)


def _win_probs(verdicts: Sequence[Verdict]) -> dict[str, dict[tuple[int, int], float]]:
    probs: defaultdict[str, defaultdict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for verdict in conclusions(verdicts):
        if verdict.opponent_id is not None and verdict.score is not None:
            probs[verdict.prompt_id][verdict.sample_id, verdict.opponent_id].append(verdict.score)
            probs[verdict.prompt_id][verdict.opponent_id, verdict.sample_id].append(1 - verdict.score)
    return {
        name: {two: math.fsum(values) / len(values) for two, values in by_pair.items()}
        for name, by_pair in probs.items()
    }
