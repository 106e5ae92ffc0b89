"""Read held-out answers of start, champion and challenger side by side, and choose a few of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from components.campaign.files import RoundFiles

MODELS = ("start", "champion", "challenger")


@dataclass(frozen=True)
class SampleAnswer:
    """One model's response; the reward is None if the judge gives none or its verdict was invalid."""

    model: str
    text: str
    reward: float | None


@dataclass(frozen=True)
class Sample:
    """One held-out prompt with the three answers.

    Outcomes are the challenger's: 1 win, 0.5 tie, 0 loss, None if not judged.
    """

    prompt: str
    answers: tuple[SampleAnswer, ...]
    outcome_vs_champion: float | None
    outcome_vs_start: float | None


@lru_cache(maxsize=32)
def read_samples(round_: RoundFiles) -> tuple[Sample, ...]:
    """Return the recorded comparisons of a round, in the order of the file; empty before evaluate."""
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
    """Choose a few samples so that no kind of outcome is hidden.

    They are the first win, loss and tie against the champion, then the first of the rest.
    """
    firsts = [
        next((sample for sample in samples if sample.outcome_vs_champion == value), None) for value in (1.0, 0.0, 0.5)
    ]
    first_of_each = [sample for sample in firsts if sample is not None]
    rest = [sample for sample in samples if sample not in first_of_each]
    return (first_of_each + rest)[:number]


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)
