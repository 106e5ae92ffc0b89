"""What two rounds' win rates say about each other: each round draws its own held-out prompts, so nothing is paired."""

from dataclasses import dataclass

from components.records import Interval
from components.report.wording import comparison, decimal
from components.statistics.intervals import difference


@dataclass(frozen=True)
class Measured:
    """How one round was measured."""

    name: str
    """The round, as `campaign/number`."""
    policy_digest: str
    champion_digest: str
    """The model that it was compared with."""
    champion_name: str
    vs_champion: Interval
    vs_start: Interval
    confidence: float
    """Level of the intervals."""


def findings(left: Measured, right: Measured) -> list[str]:
    """Return what can be said, and what cannot.

    Args:
        left: A round.
        right: Another one, measured by the same judge, against the same start, on prompts of the same pool.
    """
    if left.confidence != right.confidence:
        return ["win rates cannot be compared: the intervals have different levels (evaluation.confidence)"]
    against_start = _difference(left, right, left.vs_start, right.vs_start)
    return [f"against the start, {against_start}", _against_champions(left, right)]


def _against_champions(left: Measured, right: Measured) -> str:
    for one, other in ((left, right), (right, left)):
        if one.champion_digest == other.policy_digest:
            return f"compared with each other: {one.name} {comparison(one.vs_champion, other.name, one.confidence)}"
    if left.champion_digest == right.champion_digest:
        return f"against the same champion, {_difference(left, right, left.vs_champion, right.vs_champion)}"
    return (
        f"win rates against the champion cannot be compared: {left.name} met {left.champion_name}, "
        f"{right.name} met {right.champion_name}"
    )


def _difference(left: Measured, right: Measured, left_rate: Interval, right_rate: Interval) -> str:
    change = difference(right_rate, left_rate)
    low, high = decimal(change.low, 3), decimal(change.high, 3)
    verdict = "no proof of a difference"
    if change.low > 0:
        verdict = f"{right.name} is better, beyond chance"
    elif change.high < 0:
        verdict = f"{left.name} is better, beyond chance"
    return (
        f"{right.name} wins {decimal(right_rate.value, 3)} on its {right_rate.n} prompts and {left.name} "
        f"{decimal(left_rate.value, 3)} on its {left_rate.n}: a difference of {decimal(change.value, 3)} "
        f"({100 * left.confidence:g} % interval {low} to {high}), {verdict}"
    )
