"""How far the pairs' answers break the rule of `constraints.function`, computed once before the first step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from components.config import ConstraintsConfig
from components.data.columns import COLUMNS, parse_columns
from components.data.messages import parse_messages
from components.functions.scoring import Sample
from components.functions.violations import Violation, violations
from components.runtime.ranks import over_ranks, rank

SIDES = ("chosen", "rejected")
VIOLATIONS = tuple(f"{side}_violation" for side in SIDES)
"""Columns of a table of pairs that hold the violations of its answers; null where a pair has no answer."""


def with_violations(
    tables: Sequence[pd.DataFrame], constraints: ConstraintsConfig, *, scratch: Path
) -> list[pd.DataFrame]:
    """Return tables of pairs with the columns `VIOLATIONS`, or as they are if no function is configured.

    Ranks share the answers, each with a process of its own for the function. Every rank must call it.

    Args:
        tables: Validated pairs.
        constraints: The constraints section.
        scratch: Directory for what outlives a killed run.

    Raises:
        ValueError: The function failed on an answer, or returned no violation; names the first one.
    """
    if not constraints.function:
        return list(tables)
    places = [
        (table, row, side)
        for table, pairs in enumerate(tables)
        for row in range(len(pairs))
        for side in SIDES
        if isinstance(pairs[side].iloc[row], str)
    ]
    samples = [_sample(tables[table], row, side, number) for number, (table, row, side) in enumerate(places)]
    share = scratch / f"constraint-{rank()}"

    def work(own: list[int]) -> list[Violation]:
        return violations([samples[index] for index in own], constraints, scratch=share)

    found = over_ranks([len(sample.response) for sample in samples], work)
    failed = [index for index, violation in enumerate(found) if violation.value is None]
    if failed:
        _, row, side = places[failed[0]]
        raise ValueError(
            f"constraints.function {constraints.function} failed on {len(failed)} of {len(found)} answers of the pairs "
            f"(the first is {side} of row {row}: {found[failed[0]].error}): correct the function and start again"
        )
    values = dict(zip(places, (violation.value for violation in found), strict=True))
    return [
        _assigned(pairs, {(row, side): value for (own, row, side), value in values.items() if own == table})
        for table, pairs in enumerate(tables)
    ]


def _assigned(pairs: pd.DataFrame, values: dict[tuple[int, str], float | None]) -> pd.DataFrame:
    columns = {
        name: np.array([values.get((row, side)) for row in range(len(pairs))], dtype="float64")
        for name, side in zip(VIOLATIONS, SIDES, strict=True)
    }
    return pairs.assign(**columns)


def _sample(pairs: pd.DataFrame, row: int, side: str, number: int) -> Sample:
    values = pairs.iloc[row]
    columns = parse_columns(values.get(COLUMNS))
    return Sample(parse_messages(values["prompt"]), values[side], columns, None, number)
