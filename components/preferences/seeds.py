"""Pairs of a preference data set that is round 1's data. Knows no judge."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from components.config import PreferencesConfig
from components.data.preference_file import SeedPair, load_seed_pairs
from components.preferences.counts import PAIRED
from components.preferences.labels import TIED, soft_label
from components.preferences.tables import pair_row

log = logging.getLogger(__name__)


class Seeded(NamedTuple):
    """The pairs of a data set."""

    rows: list[dict[str, Any]]
    """As `pair_row` makes them."""
    outcomes: list[str]
    """How each row of the data set ended: one of `counts.OUTCOMES`."""


def seeded_pairs(preferences: PreferencesConfig, *, pinned_digest: str | None) -> Seeded:
    """Reads the configured data set; every row of it ends as one outcome.

    Args:
        preferences: Names the data set, margin and labels.
        pinned_digest: What the data set's digest must be.

    Raises:
        ValueError: It cannot be read, is another one than was pinned, or lacks what the soft labels need.
    """
    seeds = load_seed_pairs(preferences.seed_pairs, split=preferences.seed_pairs_split)
    if seeds.digest != pinned_digest:
        raise ValueError(
            f"preferences.seed_pairs {preferences.seed_pairs} changed while the round was running: start it again"
        )
    if seeds.split_earlier:
        places = len(seeds.split_earlier), seeds.split_earlier[0]
        log.warning(
            "%s: %d rows part before the last answer and give no pair; the first is %s", preferences.seed_pairs, *places
        )
    outcomes = [_outcome(pair, preferences) for pair in seeds.pairs]
    rows = [_row(pair, preferences) for pair, outcome in zip(seeds.pairs, outcomes, strict=True) if outcome == PAIRED]
    return Seeded(rows, outcomes + ["no_verdict"] * len(seeds.split_earlier))


def _outcome(pair: SeedPair, preferences: PreferencesConfig) -> str:
    """What a row counts as; one without a margin, or whose margin is negative, is left to validation."""
    if pair.margin is None or pair.margin < 0:
        return PAIRED
    if pair.margin == 0:
        return PAIRED if preferences.ties == "half" else "ties"
    return PAIRED if pair.margin > preferences.min_margin else "below_margin"


def _row(pair: SeedPair, preferences: PreferencesConfig) -> dict[str, Any]:
    return pair_row(
        pair.messages,
        pair.chosen,
        pair.rejected,
        p=_label(pair, preferences),
        margin=pair.margin,
        tag=preferences.tag if pair.tag is None else pair.tag,
        judge=f"dataset:{Path(preferences.seed_pairs).name}",
        verdict_ids=[],
    )


def _label(pair: SeedPair, preferences: PreferencesConfig) -> float:
    if pair.p is not None:
        return pair.p
    needed = {"verdict": "p", "bradley_terry": "p or margin"}.get(preferences.soft_labels)
    if needed == "p" or (needed and pair.margin is None):
        raise ValueError(
            f"preferences.soft_labels = {preferences.soft_labels} needs {needed} in every row of {preferences.seed_pairs}: "
            "add it, or use none"
        )
    if pair.margin is None:
        return 1.0
    return TIED if pair.margin == 0 else soft_label(pair.margin, preferences)
