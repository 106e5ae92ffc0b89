"""Pairs to try the training on: those of a judge that runs here, else pairs that no judge has seen."""

from collections.abc import Sequence
from typing import Any

from components.config import PreferencesConfig
from components.judges.protocol import Group, Opinion, Verdict, make_verdict
from components.preferences.judged_pairs import build_from_verdicts
from components.records import DataRejected

UNJUDGED = "dry-run"


def trial_pairs(
    groups: Sequence[Group], verdicts: Sequence[Verdict] | None, preferences: PreferencesConfig, *, seed: int
) -> list[dict[str, Any]]:
    """Return rows of pairs, or of single responses, of the shape that a round trains on.

    Args:
        groups: Prompts and responses.
        verdicts: Verdicts on them; None if the judge was not asked: each response then counts as better than the
            later ones, so that every prompt gives as many pairs as it can.
        preferences: The configuration of the pairs. Revisions are not asked for: best and worst stand in for them.
        seed: Seed of the builder.

    Raises:
        DataRejected: There is no pair.
    """
    if preferences.pairs == "revised":
        preferences = preferences.model_copy(update={"pairs": "best_worst"})
    if verdicts is None:
        free = {"soft_labels": "none", "min_margin": 0.0, "threshold": "median"}
        preferences = preferences.model_copy(update=free)
        verdicts = falling_scores(groups)
    rows = build_from_verdicts(groups, verdicts, judge=UNJUDGED, preferences=preferences, seed=seed).rows
    if not rows:
        raise DataRejected(
            f"the responses to {len(groups)} prompts gave no pair to try the training on: look at preferences."
            "min_margin and at the judge, or raise generation.temperature"
        )
    return list(rows)


def falling_scores(groups: Sequence[Group]) -> list[Verdict]:
    """Return made-up verdicts, by which each response is better than the later ones."""
    return [
        make_verdict(UNJUDGED, group, sample_id, Opinion(float(-place)))
        for group in groups
        for place, (sample_id, _) in enumerate(group.responses)
    ]
