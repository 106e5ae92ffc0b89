"""How often a judge puts a demonstration above other answers to its prompt. Pure; knows no model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.config import EvaluationConfig
from components.judges.protocol import Group, Verdict, conclusions, scores
from components.records import Interval
from components.statistics.intervals import share_change, win_rate


class Shown(NamedTuple):
    """A prompt with its demonstrations, and the start model's own answers to it."""

    group: Group
    """All of them as responses, the demonstrations first."""
    num_demonstrations: int


class Measured(NamedTuple):
    """What a judge said of the demonstrations."""

    rates: dict[str, float]
    """Share of the comparisons that a demonstration wins, by prompt; a tie counts half."""
    invalid: int
    """Answers that it could not score."""


def outcomes(shown: Sequence[Shown], verdicts: Sequence[Verdict]) -> Measured:
    """Return the share of the own answers below the demonstrations, by prompt.

    A prompt is left out if no demonstration of it, or no own answer, has a score.
    """
    scored = scores(verdicts)
    rates = {}
    for group, number in shown:
        of_prompt = {sample_id: scored.get((group.prompt_id, sample_id)) for sample_id, _ in group.responses}
        ours = [score for sample_id, score in of_prompt.items() if sample_id < number and score is not None]
        theirs = [score for sample_id, score in of_prompt.items() if sample_id >= number and score is not None]
        wins = [(one > other) + 0.5 * (one == other) for one in ours for other in theirs]
        if wins:
            rates[group.prompt_id] = sum(wins) / len(wins)
    return Measured(rates, sum(verdict.status == "invalid" for verdict in conclusions(verdicts)))


def accuracy(measured: Measured, settings: EvaluationConfig, *, seed: int) -> Interval | None:
    """Return how often a demonstration wins, over the prompts; None if nothing could be scored."""
    if not measured.rates:
        return None
    return win_rate(
        list(measured.rates.values()),
        confidence=settings.confidence,
        resamples=settings.bootstrap_resamples,
        seed=seed,
    )


def gain(own: Measured, other: Measured, settings: EvaluationConfig, *, seed: int) -> Interval | None:
    """Return by how much more often one judge is right than another, on the prompts that both scored."""
    common = sorted(own.rates.keys() & other.rates.keys())
    if not common:
        return None
    return share_change(
        [own.rates[name] for name in common],
        [other.rates[name] for name in common],
        confidence=settings.confidence,
        resamples=settings.bootstrap_resamples,
        seed=seed,
    )


def as_json(measured: Measured, rate: Interval | None) -> dict[str, Any]:
    """Return what is published of a judge."""
    return {
        "accuracy": None if rate is None else rate.model_dump(),
        "above_random": rate is not None and rate.low > 0.5,
        "not_scored": measured.invalid,
    }


def with_answers(
    prompts: Mapping[str, Group], demonstrations: Mapping[str, Sequence[str]], own: Mapping[str, Sequence[str]]
) -> tuple[list[Shown], int]:
    """Return the prompts with both kinds of answers, and how many own answers say what a demonstration says.

    Those are left out: neither is better. So is a prompt of which nothing else is left.
    """
    shown, equal = [], 0
    kept: defaultdict[str, list[str]] = defaultdict(list)
    for name, group in prompts.items():
        said = {text.strip() for text in demonstrations[name]}
        kept[name] = [text for text in own[name] if text.strip() not in said]
        equal += len(own[name]) - len(kept[name])
        if kept[name]:
            responses = tuple(enumerate((*demonstrations[name], *kept[name])))
            shown.append(Shown(Group(name, group.messages, responses), len(demonstrations[name])))
    return shown, equal
