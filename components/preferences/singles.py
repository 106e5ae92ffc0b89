"""Single responses from a judge's scores, each desirable or not, as KTO takes them. Knows no judge."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median

from components.config import PreferencesConfig
from components.judges.protocol import Group, Verdict
from components.preferences.candidates import SCORE_NOISE, Answer, JudgedPrompt
from components.preferences.counts import PAIRED
from components.preferences.judged_pairs import Built, verdict_ids
from components.preferences.judged_prompts import judged_prompts
from components.preferences.labels import soft_label
from components.preferences.pair_table import pair_row

THRESHOLDS: dict[str, Callable[[Sequence[float], float], float]] = {
    "median": lambda scores, value: median(scores),
    "mean": lambda scores, value: fmean(scores),
    "value": lambda scores, value: value,
}
"""(scores of the round's responses, the configured value) -> score above which a response is desirable."""


def build_singles(groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int) -> Built:
    """Every answer whose score is farther from the threshold than `min_margin`: desirable above it, undesirable below.

    Args:
        groups: Prompts and responses.
        verdicts: What the judge said of them.
        judge: Its name.
        preferences: Names threshold, margin and labels; p is the label's probability, by the distance from the threshold as the margin.
        seed: Of the stage; nothing is drawn here.
    """
    prompts, cited = judged_prompts(groups, verdicts), verdict_ids(verdicts)
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
                tag=preferences.tag,
                judge=judge,
                verdict_ids=[name for sample_id in answer.sample_ids for name in cited[group.prompt_id, sample_id]],
            )
            rows.append(row)
    return Built(rows, outcomes)


def _end(answer: Answer, threshold: float, preferences: PreferencesConfig) -> str:
    if math.isclose(answer.score, threshold, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE):
        return "ties"
    return PAIRED if abs(answer.score - threshold) > preferences.min_margin else "below_margin"


def _outcome(prompt: JudgedPrompt, ends: Sequence[str]) -> str:
    """How a prompt ended: with rows, or why it has none."""
    return next((end for end in (PAIRED, "below_margin", "ties") if end in ends), "no_verdict")
