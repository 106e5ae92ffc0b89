"""Pairs, or single responses for KTO, from a judge's verdicts on a round's responses.

Knows the builders, and no judge.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import Group, Key, Verdict, conclusions
from components.preferences.builders import BUILDERS
from components.preferences.candidates import (
    SCORE_NOISE,
    Candidates,
    JudgedAnswer,
    JudgedPrompt,
    Pair,
    candidates,
    judged_prompts,
    largest_margin,
)
from components.preferences.counts import PAIRED
from components.preferences.labels import soft_label
from components.preferences.tables import pair_row


class BuiltPairs(NamedTuple):
    """The pairs of a round."""

    rows: list[dict[str, Any]]
    """Rows of `pair_row`."""
    outcomes: dict[str, str]
    """How each prompt ended, by prompt_id in the order of the prompts: one of `counts.OUTCOMES`."""
    revisions: dict[str, int] | None = None
    """Number of responses by the outcome of their revision; None unless pairs are built by revision."""
    largest_margin: float | None = None
    """Largest margin that `preferences.min_margin` left out; None if it left out none."""


def build_pairs(
    groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int
) -> BuiltPairs:
    """Build pairs from verdicts with the configured builder.

    Args:
        groups: Prompts and responses.
        verdicts: The judge's verdicts on them.
        judge: The judge's name.
        preferences: Builder, margin and labels.
        seed: Seed of the stage.

    Raises:
        ValueError: The labels need the judge's comparisons, and it compared no responses.
    """
    _check_compared(verdicts, judge, preferences)
    builder = BUILDERS[preferences.pairs]
    rescored = [builder.rescored(prompt) for prompt in judged_prompts(groups, verdicts, preferences)]
    offers = [candidates(prompt, preferences) for prompt in rescored]
    pairs = iter(builder.choose([offered for offered in offers if isinstance(offered, Candidates)], preferences, seed))
    cited = verdict_ids(verdicts)
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, str] = {}
    for group, offered in zip(groups, offers, strict=True):
        outcomes[group.prompt_id] = PAIRED if isinstance(offered, Candidates) else offered
        if isinstance(offered, Candidates):
            rows += [_row(group, pair, judge, cited, preferences) for pair in next(pairs)]
    below = [
        largest_margin(prompt, preferences)
        for prompt, offered in zip(rescored, offers, strict=True)
        if offered == "below_margin"
    ]
    return BuiltPairs(rows, outcomes, largest_margin=max(below, default=None))


def _check_compared(verdicts: Iterable[Verdict], judge: str, preferences: PreferencesConfig) -> None:
    if preferences.soft_labels == "verdict" and all(verdict.opponent_id is None for verdict in conclusions(verdicts)):
        raise ValueError(
            "preferences.soft_labels = verdict needs a judge that compares responses, but "
            f"{judge} scores one response at a time: use bradley_terry"
        )


def _row(
    group: Group, pair: Pair, judge: str, cited: defaultdict[Key, list[str]], preferences: PreferencesConfig
) -> dict[str, Any]:
    sample_ids = pair.chosen.sample_ids + pair.rejected.sample_ids
    evidence = dict.fromkeys(name for sample_id in sample_ids for name in cited[group.prompt_id, sample_id])
    return pair_row(
        group.messages,
        pair.chosen.text,
        pair.rejected.text,
        p=pair.p,
        margin=pair.margin,
        tag=group.tag or preferences.tag,
        judge=judge,
        verdict_ids=list(evidence),
    )


def verdict_ids(verdicts: Iterable[Verdict]) -> defaultdict[Key, list[str]]:
    """Return the ids of the valid conclusions on each response."""
    ids: defaultdict[Key, list[str]] = defaultdict(list)
    for verdict in conclusions(verdicts):
        if verdict.status == "ok":
            ids[verdict.prompt_id, verdict.sample_id].append(verdict.verdict_id)
            if verdict.opponent_id is not None:
                ids[verdict.prompt_id, verdict.opponent_id].append(verdict.verdict_id)
    return ids


THRESHOLDS: dict[str, Callable[[Sequence[float], float], float]] = {
    "median": lambda scores, value: median(scores),
    "mean": lambda scores, value: fmean(scores),
    "value": lambda scores, value: value,
}
"""(scores of the round's responses, the configured value) -> score above which a response is desirable."""


def build_singles(
    groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int
) -> BuiltPairs:
    """Label the answers whose score is more than `min_margin` from the threshold: desirable if above, else undesirable.

    Args:
        groups: Prompts and responses.
        verdicts: The judge's verdicts on them.
        judge: The judge's name.
        preferences: Threshold, margin and labels; p is the probability of the label, with the distance from the
            threshold as the margin.
        seed: Seed of the stage; unused, since nothing is drawn here.
    """
    prompts, cited = judged_prompts(groups, verdicts, preferences), verdict_ids(verdicts)
    scores = [answer.score for prompt in prompts for answer in prompt.answers for _ in answer.sample_ids]
    rows, outcomes = [], {}
    threshold = THRESHOLDS[preferences.threshold](scores, preferences.threshold_value) if scores else math.nan
    for group, prompt in zip(groups, prompts, strict=True):
        ends = {answer: _end(answer, threshold, preferences) for answer in prompt.answers}
        outcomes[group.prompt_id] = _outcome(prompt, list(ends.values()))
        for answer in (answer for answer, end in ends.items() if end == PAIRED):
            desirable, distance = answer.score > threshold, abs(answer.score - threshold)
            row = pair_row(
                group.messages,
                answer.text if desirable else None,
                None if desirable else answer.text,
                p=soft_label(distance, preferences),
                margin=distance,
                tag=group.tag or preferences.tag,
                judge=judge,
                verdict_ids=[name for sample_id in answer.sample_ids for name in cited[group.prompt_id, sample_id]],
            )
            rows.append(row)
    below = [
        abs(answer.score - threshold)
        for prompt in prompts
        for answer in prompt.answers
        if _end(answer, threshold, preferences) == "below_margin"
    ]
    return BuiltPairs(rows, outcomes, largest_margin=max(below, default=None))


def _end(answer: JudgedAnswer, threshold: float, preferences: PreferencesConfig) -> str:
    if math.isclose(answer.score, threshold, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE):
        return "ties"
    if abs(answer.score - threshold) <= preferences.min_margin:
        return "below_margin"
    return "chosen_cut" if answer.never_chosen and answer.score > threshold else PAIRED


def _outcome(prompt: JudgedPrompt, ends: Sequence[str]) -> str:
    """Return how a prompt ended: with rows, or the reason if it has none."""
    return next((end for end in (PAIRED, "chosen_cut", "below_margin", "ties") if end in ends), "no_verdict")


def build_from_verdicts(
    groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int
) -> BuiltPairs:
    """Build pairs, or single responses, as `preferences.pairs` says; arguments and errors as for `build_pairs`."""
    chosen = build_singles if preferences.pairs == "unpaired" else build_pairs
    return chosen(groups, verdicts, judge=judge, preferences=preferences, seed=seed)
