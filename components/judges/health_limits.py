"""Limits on a judge's health, beyond which a round must not trust it."""

from typing import Literal, NamedTuple

from components.config import PreferencesConfig
from components.judges.health import Health
from components.records import Interval, JudgeUnavailable


class Limit(NamedTuple):
    """A bound on one of the measures."""

    measure: str
    measured: Interval | None
    name: str
    """Field of the configuration's section `preferences`."""
    bound: float
    side: Literal["below", "above"]
    """Side of the bound on which the measure must not lie."""
    remedy: str


def check_limits(judge: str, health: Health, preferences: PreferencesConfig) -> None:
    """Raise if a measure breaks its limit beyond chance, that is with its whole interval.

    A measure that is None breaks no limit.

    Raises:
        JudgeUnavailable: A measure breaks its limit; names the judge, the value, the limit and the remedy.
    """
    for limit in _limits(health, preferences):
        measured = limit.measured
        if measured is None or not _beyond(measured, limit):
            continue
        value = f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}] over {measured.n} prompts"
        raise JudgeUnavailable(
            f"judge {judge}: its {limit.measure} is {value}, {limit.side} preferences.{limit.name} = {limit.bound:g}; "
            f"{limit.remedy}, or change the limit"
        )


def _limits(health: Health, preferences: PreferencesConfig) -> tuple[Limit, ...]:
    return (
        Limit(
            "position consistency",
            health.position_consistency,
            "min_position_consistency",
            preferences.min_position_consistency,
            "below",
            "its verdicts depend on the order of the responses: use a stronger judge",
        ),
        Limit(
            "repetition stability",
            health.repetition_stability,
            "min_repetition_stability",
            preferences.min_repetition_stability,
            "below",
            "it contradicts itself: use a stronger judge, or one that answers at temperature 0",
        ),
        Limit(
            "tie share",
            health.tie_share,
            "max_tie_share",
            preferences.max_tie_share,
            "above",
            "it seldom prefers a response: use a finer judge, or sample more varied responses",
        ),
        Limit(
            "length preference",
            health.length_preference,
            "max_length_preference",
            preferences.max_length_preference,
            "above",
            "its verdicts depend on length: use the prompt template `concise`, or another judge",
        ),
    )


def _beyond(measured: Interval, limit: Limit) -> bool:
    return measured.high < limit.bound if limit.side == "below" else measured.low > limit.bound
