"""Held-out answers of start, champion and challenger side by side, and which of them to show where there is little room."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from components.campaign.files import RoundFiles

MODELS = ("start", "champion", "challenger")


@dataclass(frozen=True)
class SampleAnswer:
    """One model's response; no reward where the judge gives none or its verdict was invalid."""

    model: str
    text: str
    reward: float | None


@dataclass(frozen=True)
class Sample:
    """One held-out prompt with the three answers.

    Outcomes are the challenger's: 1 win, 0.5 tie, 0 loss, None where unjudged.
    """

    prompt: str
    answers: tuple[SampleAnswer, ...]
    outcome_vs_champion: float | None
    outcome_vs_start: float | None


@lru_cache(maxsize=32)
def read_samples(round_: RoundFiles) -> tuple[Sample, ...]:
    """The kept comparisons of a round, in the order of the file; empty before evaluate."""
    table = round_.samples
    if table is None:
        return ()
    return tuple(
        Sample(
            prompt=row["prompt"],
            answers=tuple(
                SampleAnswer(model=name, text=row[name], reward=_known(row[f"reward_{name}"])) for name in MODELS
            ),
            outcome_vs_champion=_known(row["outcome_vs_champion"]),
            outcome_vs_start=_known(row["outcome_vs_start"]),
        )
        for row in table.to_dict("records")
    )


def mixed_outcomes(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Picks a few samples.

    The first win, loss and tie against the champion, then the first of the rest, so that no result is hidden.
    """
    firsts = [
        next((sample for sample in samples if sample.outcome_vs_champion == value), None) for value in (1.0, 0.0, 0.5)
    ]
    picked = [sample for sample in firsts if sample is not None]
    rest = [sample for sample in samples if sample not in picked]
    return (picked + rest)[:number]


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
