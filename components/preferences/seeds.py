"""Pairs of the preference data set that seeds round 1. Knows no judge."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from components.config import PreferencesConfig
from components.data.messages import with_system
from components.data.preference_file import SeedPair, load_seed_pairs
from components.preferences.counts import PAIRED
from components.preferences.labels import TIED, soft_label
from components.preferences.tables import pair_row

log = logging.getLogger(__name__)


class Seeded(NamedTuple):
    """The pairs of a data set."""

    rows: list[dict[str, Any]]
    """Rows of `pair_row`."""
    outcomes: list[str]
    """How each row of the data set ended: one of `counts.OUTCOMES`."""
    largest_margin: float | None
    """Largest margin that `preferences.min_margin` left out; None if it left out none."""


def seeded_pairs(preferences: PreferencesConfig, *, pinned_digest: str | None, system_prompt: str) -> Seeded:
    """Read the configured data set; every row of it ends with one outcome.

    Args:
        preferences: Data set, margin and labels.
        pinned_digest: Digest that the data set must have.
        system_prompt: `policy.system_prompt`, which prompts get that have no system message.

    Raises:
        ValueError: The data set cannot be read, differs from the pinned one, or lacks a column that the soft labels
            need.
    """
    seeds = load_seed_pairs(
        preferences.seed_pairs, split=preferences.seed_pairs_split, revision=preferences.seed_pairs_revision
    )
    if seeds.digest != pinned_digest:
        raise ValueError(
            f"preferences.seed_pairs = {preferences.seed_pairs} changed while the round was running: run it again"
        )
    if seeds.split_earlier:
        log.warning(
            "%s: %d rows give no pair, because chosen and rejected differ before the last answer; the first is %s",
            preferences.seed_pairs,
            len(seeds.split_earlier),
            seeds.split_earlier[0],
        )
    outcomes = [_outcome(pair, preferences) for pair in seeds.pairs]
    led = [replace(pair, messages=with_system(pair.messages, system_prompt)) for pair in seeds.pairs]
    rows = [_row(pair, preferences) for pair, outcome in zip(led, outcomes, strict=True) if outcome == PAIRED]
    below = [
        pair.margin
        for pair, outcome in zip(seeds.pairs, outcomes, strict=True)
        if outcome == "below_margin" and pair.margin is not None
    ]
    return Seeded(rows, outcomes + ["no_verdict"] * seeds.num_without_pair, max(below, default=None))


def _outcome(pair: SeedPair, preferences: PreferencesConfig) -> str:
    """Return a row's outcome; validation handles a row without a margin or with a negative one."""
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
            f"preferences.soft_labels = {preferences.soft_labels} needs {needed} in every row of "
            f"{preferences.seed_pairs}: add it, or set preferences.soft_labels to none"
        )
    if pair.margin is None:
        return 1.0
    return TIED if pair.margin == 0 else soft_label(pair.margin, preferences)
