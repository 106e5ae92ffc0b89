"""Means over seeds, and differences from the baseline. Pure functions of outcomes."""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from components.records import Interval, Record
from components.statistics.intervals import mean_of_seeds
from components.study.outcomes import Outcome, Point

Measure = Callable[[Outcome], float | None]
BUDGET_TOLERANCE = 0.1
"""Share by which an arm's budget may differ from the baseline's before the report says so: answers differ in length."""
SAME = 1e-9
"""Difference up to which seeds reached the same. A few of them may, by chance, and an interval of width 0 would pass
for certainty."""
MEASURES: dict[str, Measure] = {
    "win_rate": lambda outcome: outcome.final.win_rate,
    "reward": lambda outcome: outcome.final.reward,
    "kl": lambda outcome: outcome.final.kl,
    "tokens": lambda outcome: outcome.final.tokens,
    "seconds": lambda outcome: outcome.seconds,
}
"""What is averaged over the seeds, of the arm's champion in the end."""


class Spread(Record):
    """A mean over seeds; the bounds are None if the seeds show no spread: there is one, or all reached the same."""

    value: float
    low: float | None
    high: float | None
    n: int


class PlacedPoint(Record):
    """Mean of a round's models over the seeds, for the frontier."""

    round: int
    kl: Spread
    reward: Spread | None
    win_rate: Spread


class ArmSummary(Record):
    """An arm over its seeds."""

    arm: str
    seeds: tuple[int, ...]
    """Seeds that are done."""
    measures: dict[str, Spread]
    """By the names of `MEASURES`; a measure that a seed lacks is left out."""
    differences: dict[str, Spread]
    """The same less the baseline's, paired by seed; empty for the baseline."""
    reward_at_baseline_path: Spread | None
    """Reward less that of the baseline's models at the same KL, paired by seed, where their KL reaches that far; None
    for the baseline, and where it does for no seed."""
    frontier: tuple[PlacedPoint, ...]
    promotions: float
    """Mean number of promoted rounds."""
    generated_tokens: float
    verdicts: float
    peak_memory_bytes: int
    budget: str | None
    """How the budget differs from the baseline's; None if it does not."""


def summarize(outcomes: Sequence[Outcome], *, arms: Sequence[str], confidence: float) -> tuple[ArmSummary, ...]:
    """Return each arm that has a finished seed, in the order of the study.

    Args:
        outcomes: What is done, in any order.
        arms: The arms; the first is the baseline.
        confidence: Level of the intervals over seeds.
    """
    by_seed = sorted(outcomes, key=lambda outcome: outcome.seed)
    by_arm = {arm: [outcome for outcome in by_seed if outcome.arm == arm] for arm in arms}
    return tuple(
        _summary(arm, own, [] if arm == arms[0] else by_arm[arms[0]], confidence) for arm, own in by_arm.items() if own
    )


def _summary(arm: str, outcomes: list[Outcome], baseline: list[Outcome], confidence: float) -> ArmSummary:
    return ArmSummary(
        arm=arm,
        seeds=tuple(outcome.seed for outcome in outcomes),
        measures=_measures(outcomes, confidence),
        differences=_differences(outcomes, baseline, confidence),
        reward_at_baseline_path=_at_equal_kl(outcomes, baseline, confidence),
        frontier=_frontier(outcomes, confidence),
        promotions=_mean([sum(point.promoted for point in outcome.points) for outcome in outcomes]),
        generated_tokens=_mean([outcome.generated_tokens for outcome in outcomes]),
        verdicts=_mean([outcome.verdicts for outcome in outcomes]),
        peak_memory_bytes=max(outcome.peak_memory_bytes for outcome in outcomes),
        budget=_budget(outcomes, baseline),
    )


def _measures(outcomes: list[Outcome], confidence: float) -> dict[str, Spread]:
    measures = {}
    for name, measure in MEASURES.items():
        values = [value for value in map(measure, outcomes) if value is not None]
        if len(values) == len(outcomes):
            measures[name] = _spread(values, confidence)
    measures["win_rate"] = _within_0_and_1(measures["win_rate"])
    return measures


def _within_0_and_1(rate: Spread) -> Spread:
    """Return the mean of rates with bounds that a rate can have, which Student's interval does not know of."""
    if rate.low is None or rate.high is None:
        return rate
    return rate.model_copy(update={"low": max(0.0, rate.low), "high": min(1.0, rate.high)})


def _differences(outcomes: list[Outcome], baseline: list[Outcome], confidence: float) -> dict[str, Spread]:
    """Return the measures less the baseline's: a seed has the same start, prompts and draws in every arm."""
    theirs = {outcome.seed: outcome for outcome in baseline}
    both = [(outcome, theirs[outcome.seed]) for outcome in outcomes if outcome.seed in theirs]
    differences = {}
    for name, measure in MEASURES.items():
        pairs = [(measure(own), measure(other)) for own, other in both]
        known = [own - other for own, other in pairs if own is not None and other is not None]
        if known and len(known) == len(pairs):
            differences[name] = _spread(known, confidence)
    return differences


def _at_equal_kl(outcomes: list[Outcome], baseline: list[Outcome], confidence: float) -> Spread | None:
    """Return the reward above the baseline's path, as the frontier of Rafailov et al. (2023), Figure 2, is read."""
    theirs = {outcome.seed: outcome for outcome in baseline}
    above = []
    for outcome in outcomes:
        other = theirs.get(outcome.seed)
        there = None if other is None else _reward_at(other, outcome.final.kl)
        if there is not None and outcome.final.reward is not None:
            above.append(outcome.final.reward - there)
    return _spread(above, confidence) if above else None


def _reward_at(outcome: Outcome, kl: float) -> float | None:
    """Return the reward of an arm's models at a KL, on straight lines from the start through those promoted."""
    places = [(0.0, outcome.start_reward)]
    places += [(point.kl, point.reward) for point in outcome.points if point.promoted]
    known = sorted((at, reward) for at, reward in places if reward is not None)
    if len(known) < len(places) or kl > known[-1][0]:
        return None
    return float(np.interp(kl, [at for at, _ in known], [reward for _, reward in known]))


def _frontier(outcomes: list[Outcome], confidence: float) -> tuple[PlacedPoint, ...]:
    points = sorted((point for outcome in outcomes for point in outcome.points), key=lambda point: point.round)
    by_round = groupby(points, lambda point: point.round)
    return tuple(_placed(round, list(of_round), confidence) for round, of_round in by_round)


def _placed(round: int, points: list[Point], confidence: float) -> PlacedPoint:
    rewards = [point.reward for point in points if point.reward is not None]
    return PlacedPoint(
        round=round,
        kl=_spread([point.kl for point in points], confidence),
        reward=_spread(rewards, confidence) if len(rewards) == len(points) else None,
        win_rate=_within_0_and_1(_spread([point.win_rate for point in points], confidence)),
    )


def _budget(outcomes: list[Outcome], baseline: list[Outcome]) -> str | None:
    """Say how an arm's tokens and verdicts differ from those of the baseline's same seeds; None if they do not."""
    if not baseline:
        return None
    theirs = {outcome.seed: outcome for outcome in baseline}
    both = [(outcome, theirs[outcome.seed]) for outcome in outcomes if outcome.seed in theirs]
    if not both:
        return "not compared: the baseline has none of its seeds"
    parts = []
    for noun, measure in (("generated tokens", _tokens), ("verdicts", _verdicts)):
        own, other = (sum(measure(each) for each in side) for side in zip(*both, strict=True))
        if not other and own:
            parts.append(f"{own:,} {noun}, of which the baseline has none")
        elif other and abs(own / other - 1) > BUDGET_TOLERANCE:
            parts.append(f"{own / other:.2f} times the baseline's {noun}")
    return " and ".join(parts) or None


def _tokens(outcome: Outcome) -> int:
    return outcome.generated_tokens


def _verdicts(outcome: Outcome) -> int:
    return outcome.verdicts


def _spread(values: list[float], confidence: float) -> Spread:
    if max(values) - min(values) < SAME:
        return Spread(value=values[0], low=None, high=None, n=len(values))
    interval: Interval = mean_of_seeds(values, confidence=confidence)
    return Spread(**interval.model_dump())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
