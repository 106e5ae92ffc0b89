"""`collect.json`: what became of every prompt, in numbers that add up."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from components.judges.protocol import Group, Verdict, scores
from components.preferences.verdict_table import conclusions

COUNTS = "collect.json"
OUTCOMES = ("pairs", "ties", "below_margin", "no_verdict")


def judged_counts(groups: Sequence[Group], verdicts: Sequence[Verdict], outcomes: Counter[str]) -> dict[str, Any]:
    """Counts of a judged round; conclusions count as verdicts, and a response's score once."""
    concluded, scored = conclusions(verdicts), scores(verdicts)
    counts = {
        "prompts": len(groups),
        "responses": sum(len(group.responses) for group in groups),
        "verdicts": len(concluded),
        "invalid_verdicts": sum(verdict.status == "invalid" for verdict in concluded),
        "mean_score": math.fsum(scored.values()) / len(scored) if scored else None,
    }
    return counts | _ended(outcomes, prompts=len(groups))


def seeded_counts(outcomes: Counter[str]) -> dict[str, Any]:
    """Counts of a round that a data set seeds: a prompt for each of its rows."""
    rows = outcomes.total()
    counts = {"prompts": rows, "responses": 0, "verdicts": 0, "invalid_verdicts": 0, "mean_score": None}
    return counts | _ended(outcomes, prompts=rows)


def _ended(outcomes: Counter[str], *, prompts: int) -> dict[str, int]:
    ended = {outcome: outcomes[outcome] for outcome in OUTCOMES}
    if sum(ended.values()) != prompts or outcomes.keys() - set(OUTCOMES):
        raise AssertionError(f"the outcomes {dict(outcomes)} do not add up to {prompts} prompts")
    return ended
