"""What a second, costly judge concluded about pairs. Knows no judge."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from components.judges.protocol import SCORE_NOISE, Verdict
from components.preferences.active.doubts import Doubted


class Word(NamedTuple):
    """What the costly judge concluded about a pair."""

    margin: float
    """Score of chosen minus score of rejected, in the costly judge's units; 0 for a tie."""
    p: float | None
    """Probability that chosen is better; None from a judge that scores."""
    verdict_ids: list[str]


def words(pairs: Sequence[Doubted], conclusions: Sequence[Verdict]) -> list[Word | None]:
    """The judge's word on each pair, from its conclusions; None where it has none."""
    concluded = [verdict for verdict in conclusions if verdict.score is not None]
    alone = {(verdict.prompt_id, verdict.sample_id): verdict for verdict in concluded if verdict.opponent_id is None}
    compared = {(verdict.prompt_id, verdict.sample_id, verdict.opponent_id): verdict for verdict in concluded}
    found: list[Word | None] = []
    for pair in pairs:
        name = pair.group.prompt_id
        first, second = alone.get((name, pair.chosen)), alone.get((name, pair.rejected))
        forward, backward = compared.get((name, pair.chosen, pair.rejected)), compared.get((name, pair.rejected, pair.chosen))
        if first is not None and second is not None:
            found.append(Word(_difference(first, second), None, [first.verdict_id, second.verdict_id]))
        elif forward is not None and forward.score is not None:
            found.append(Word(2 * forward.score - 1, forward.score, [forward.verdict_id]))
        elif backward is not None and backward.score is not None:
            found.append(Word(1 - 2 * backward.score, 1 - backward.score, [backward.verdict_id]))
        else:
            found.append(None)
    return found


def _difference(first: Verdict, second: Verdict) -> float:
    assert first.score is not None
    assert second.score is not None
    equal = math.isclose(first.score, second.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
    return 0.0 if equal else first.score - second.score
