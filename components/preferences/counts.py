"""`collect.json`: what became of every prompt, in numbers that add up."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from components.judges.function_scores import function_scores
from components.judges.protocol import Group, Verdict, conclusions, scores
from components.judges.violations import count_violations
from components.preferences.labels import TIED

COUNTS = "collect.json"
PAIRED, NOT_REVISED = "paired", "not_revised"
OUTCOMES = (PAIRED, "ties", "below_margin", "no_verdict", "not_compared", NOT_REVISED, "chosen_cut")
"""How a prompt may end: with pairs, without any for one of the reasons in `candidates`, or with a useless revision."""


def judged_counts(
    groups: Sequence[Group], verdicts: Sequence[Verdict], outcomes: Iterable[str], pairs: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Count what a judged round gave; only conclusions count as verdicts, and each response's score counts once."""
    concluded, scored = conclusions(verdicts), scores(verdicts)
    counts = {
        "prompts": len(groups),
        "responses": sum(len(group.responses) for group in groups),
        "verdicts": len(concluded),
        "invalid_verdicts": sum(verdict.status == "invalid" for verdict in concluded),
        "mean_score": math.fsum(scored.values()) / len(scored) if scored else None,
        "violations": {principle: counts.model_dump() for principle, counts in count_violations(verdicts).items()},
    }
    functions = {name: own.model_dump() for name, own in function_scores(verdicts).items()}
    return (
        counts | ({"functions": functions} if functions else {}) | _ended(Counter(outcomes), pairs, prompts=len(groups))
    )


def seeded_counts(outcomes: Sequence[str], pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count what a data set that seeds a round gave; each of its rows counts as a prompt."""
    counts: dict[str, Any] = {
        "prompts": len(outcomes),
        "responses": 0,
        "verdicts": 0,
        "invalid_verdicts": 0,
        "mean_score": None,
        "violations": {},
    }
    return counts | _ended(Counter(outcomes), pairs, prompts=len(outcomes))


def _ended(outcomes: Counter[str], pairs: Sequence[dict[str, Any]], *, prompts: int) -> dict[str, int]:
    """Count prompts by outcome, which add up to `prompts`, and pairs, of which a prompt may give several."""
    ended = {outcome: outcomes[outcome] for outcome in OUTCOMES}
    if sum(ended.values()) != prompts or outcomes.keys() - set(OUTCOMES):
        raise AssertionError(f"the outcomes {dict(outcomes)} do not add up to {prompts} prompts")
    if len(pairs) < outcomes[PAIRED]:
        raise AssertionError(f"{outcomes[PAIRED]} prompts must have pairs, but there are only {len(pairs)} pairs")
    return ended | pair_counts(pairs)


def pair_counts(pairs: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Count the pairs, and those of which neither answer is better."""
    return {"pairs": len(pairs), "tied_pairs": sum(pair["p"] == TIED for pair in pairs)}
