"""The numbers of an evaluation, from outcomes and responses. Knows no judge, no model and no file."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from components.artifacts import derive_seed
from components.evaluation.outcomes import HeldOutComparison
from components.evaluation.samples import by_prompt
from components.generation.responses import Response
from components.records import EvaluateRequest, Interval
from components.statistics.diversity import distinct
from components.statistics.intervals import mean_interval, share_change, win_rate
from components.statistics.length_control import length_controlled_win_rate

MODELS = ("start", "champion", "challenger")
Responses = Mapping[str, Sequence[Response]]
"""By model, its responses; those to one prompt follow each other."""

log = logging.getLogger(__name__)


class Judged(NamedTuple):
    """What the judge said of the judged prompts, which are the first ones; None for one without a verdict."""

    outcomes: dict[str, list[float | None]]
    """By opponent, the challenger's mean outcome on each prompt."""
    rewards: dict[str, list[float | None]] | None
    """By model, the mean score of its responses to each prompt; None for a judge that gives no scores."""

    @property
    def mean_rewards(self) -> dict[str, float] | None:
        """By model, the mean score."""
        return (
            None if self.rewards is None else {name: mean(known_only(values)) for name, values in self.rewards.items()}
        )


def per_prompt(comparison: HeldOutComparison, samples: int) -> Judged:
    """Average over the rows of each prompt that have a verdict."""

    def means(rows: Sequence[float | None]) -> list[float | None]:
        return [mean(known) if (known := known_only(each)) else None for each in by_prompt(rows, samples)]

    rewards = comparison.rewards
    return Judged(
        {name: means(rows) for name, rows in comparison.outcomes.items()},
        None if rewards is None else {name: means(rewards[name]) for name in MODELS},
    )


def win_rates(request: EvaluateRequest, judged: Judged, responses: Responses) -> dict[str, Any]:
    """Return the win rate against each opponent, and what it would be if the responses were equally long."""
    settings, seed = request.evaluation, derive_seed(request.seed, "win_rate")
    samples = settings.samples_per_prompt
    lengths = {
        name: [mean(rows) for rows in by_prompt(of_model, samples)] for name, of_model in lengths_of(responses).items()
    }
    rates: dict[str, Any] = {}
    for opponent in ("champion", "start"):
        outcomes = judged.outcomes[opponent]
        rows = [row for row, outcome in enumerate(outcomes) if outcome is not None]
        known = known_only(outcomes)
        differences = [lengths["challenger"][row] - lengths[opponent][row] for row in rows]
        rate = win_rate(known, confidence=settings.confidence, resamples=settings.bootstrap_resamples, seed=seed)
        controlled = length_controlled_win_rate(
            known, differences, confidence=settings.confidence, resamples=settings.bootstrap_resamples, seed=seed
        )
        rates[f"win_rate_vs_{opponent}"] = rate.model_dump()
        rates[f"length_controlled_win_rate_vs_{opponent}"] = controlled.model_dump()
        if len(known) < len(outcomes):
            log.warning("%d comparisons with the %s have no verdict", len(outcomes) - len(known), opponent)
    return rates


def divergence(request: EvaluateRequest, log_ratios: Sequence[float]) -> dict[str, Any]:
    """Estimate KL(challenger || start) per response on the challenger's own samples, at the same temperature."""
    settings = request.evaluation
    seed = derive_seed(request.seed, "kl_to_start")
    means = [mean(rows) for rows in by_prompt(log_ratios, settings.samples_per_prompt)]
    interval: Interval = mean_interval(
        means, confidence=settings.confidence, resamples=settings.bootstrap_resamples, seed=seed
    )
    return {"kl_to_start": interval.value, "kl_to_start_interval": interval.model_dump()}


def unfinished_increase(request: EvaluateRequest, responses: Responses) -> dict[str, Any]:
    """Return by how much more of the challenger's responses than of the champion's are empty or cut, as an interval."""
    settings, seed = request.evaluation, derive_seed(request.seed, "unfinished_increase")
    unusable = {
        name: [
            mean([response.empty or response.unfinished for response in of_prompt])
            for of_prompt in by_prompt(responses[name], settings.samples_per_prompt)
        ]
        for name in ("challenger", "champion")
    }
    return share_change(
        unusable["challenger"],
        unusable["champion"],
        confidence=settings.confidence,
        resamples=settings.bootstrap_resamples,
        seed=seed,
    ).model_dump()


def diversity(responses: Sequence[Response]) -> dict[str, float | None]:
    """Return distinct-1 and distinct-2 of responses."""
    rows = [response.answer_ids for response in responses]
    return {f"distinct_{n}": distinct(rows, n) for n in (1, 2)}


def lengths_of(responses: Responses) -> dict[str, list[int]]:
    """Return the tokens of each response, by model."""
    return {name: [len(response.token_ids) for response in responses[name]] for name in MODELS}


def known_only(values: Sequence[float | None]) -> list[float]:
    """Return the values that there are."""
    return [value for value in values if value is not None]


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return float(np.mean(values))
