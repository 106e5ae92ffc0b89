"""Pairs of a preference data set that is round 1's data. Knows no judge."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from components.config import PreferencesConfig
from components.preferences.builders import soft_label
from components.preferences.judged_pairs import Built
from components.preferences.pair_table import pair_row
from components.preferences.pairs_file import SeedPair, load_seed_pairs

log = logging.getLogger(__name__)


def seeded_pairs(preferences: PreferencesConfig, *, pinned_digest: str | None) -> Built:
    """Reads the configured data set; every row of it ends as one outcome.

    Args:
        preferences: Names the data set, margin and labels.
        pinned_digest: What the data set's digest must be.

    Raises:
        ValueError: It cannot be read, is another one than was pinned, or lacks what the soft labels need.
    """
    seeds = load_seed_pairs(preferences.seed_pairs, split=preferences.seed_pairs_split)
    if seeds.digest != pinned_digest:
        raise ValueError(f"preferences.seed_pairs {preferences.seed_pairs} changed while the round was running: start it again")
    if seeds.split_earlier:
        places = len(seeds.split_earlier), seeds.split_earlier[0]
        log.warning("%s: %d rows part before the last answer and give no pair; the first is %s", preferences.seed_pairs, *places)
    outcomes = Counter({"no_verdict": len(seeds.split_earlier)})
    rows = []
    for pair in seeds.pairs:
        outcome = _outcome(pair, preferences)
        outcomes[outcome] += 1
        if outcome == "pairs":
            rows.append(_row(pair, preferences))
    return Built(rows, outcomes)


def _outcome(pair: SeedPair, preferences: PreferencesConfig) -> str:
    """What a row counts as; one without a margin, or whose margin is negative, is left to validation."""
    if pair.margin is None or pair.margin < 0:
        return "pairs"
    if pair.margin == 0:
        return "ties"
    return "pairs" if pair.margin > preferences.min_margin else "below_margin"


def _row(pair: SeedPair, preferences: PreferencesConfig) -> dict[str, Any]:
    p = pair.p
    if p is None and pair.margin is None and preferences.soft_labels != "none":
        raise ValueError(
            f"preferences.soft_labels = {preferences.soft_labels} needs p or margin in every row of {preferences.seed_pairs}: "
            "add it, or use none"
        )
    if p is None:
        p = 1.0 if pair.margin is None else soft_label(pair.margin, preferences)
    return pair_row(
        pair.messages,
        pair.chosen,
        pair.rejected,
        p=p,
        margin=pair.margin,
        tag=preferences.tag if pair.tag is None else pair.tag,
        judge=f"dataset:{Path(preferences.seed_pairs).name}",
        verdict_ids=[],
    )
