"""The pairs of a round in a form that can be judged again, and the measures that rank them. Knows no costly judge."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import SCORE_NOISE, Group, Judge, Verdict, scores
from components.preferences.active.choice import Candidate
from components.preferences.candidates import judged_prompts
from components.preferences.labels import sigmoid


class UncertainPair(NamedTuple):
    """A pair of the round that can be judged again."""

    row: dict[str, Any]
    group: Group
    """The prompt with the two responses, in the order of their sample ids, which does not reveal the label."""
    chosen: int
    """Sample id."""
    rejected: int
    """Sample id."""
    p: float
    """The judge's probability that chosen is better."""


def uncertain_pairs(
    rows: Sequence[dict[str, Any]], groups: Sequence[Group], verdicts: Sequence[Verdict], preferences: PreferencesConfig
) -> list[UncertainPair]:
    """Return one uncertain pair per row, in order.

    Its p comes from the judge's comparison of the two answers, or is sigmoid(margin / soft_label_scale) if the judge
    scores each response alone.
    """
    prompts = {
        prompt.prompt_id: (group, prompt)
        for group, prompt in zip(groups, judged_prompts(groups, verdicts, preferences), strict=True)
    }
    pairs = []
    for row in rows:
        group, prompt = prompts[row["prompt_id"]]
        chosen, rejected = (
            next(number for number, text in group.responses if text == row[side]) for side in ("chosen", "rejected")
        )
        two = tuple(response for response in group.responses if response[0] in (chosen, rejected))
        p = prompt.comparisons.get((chosen, rejected))
        p = sigmoid(row["margin"] / preferences.soft_label_scale) if p is None else p
        pairs.append(UncertainPair(row, replace(group, responses=two), chosen, rejected, p))
    return pairs


def candidates(pairs: Sequence[UncertainPair], implicit_reward: Judge | None) -> list[Candidate]:
    """Return the candidates for the costly judge, one per pair.

    A pair's closeness is None without the judge of implicit rewards, or if that judge did not score both answers.
    """
    rewards = {} if implicit_reward is None else scores(implicit_reward.judge([pair.group for pair in pairs]))
    listed = []
    for pair in pairs:
        two = [rewards.get((pair.group.prompt_id, number)) for number in (pair.chosen, pair.rejected)]
        closeness = None if two[0] is None or two[1] is None else abs(two[0] - two[1])
        text = " ".join([pair.row["prompt"], pair.row["chosen"], pair.row["rejected"]])
        listed.append(Candidate(text, pair.p, closeness))
    return listed


class CostlyVerdict(NamedTuple):
    """The costly judge's conclusion on a pair."""

    margin: float
    """Score of chosen minus score of rejected, in the costly judge's units; 0 for a tie."""
    p: float | None
    """Probability that chosen is better; None from a judge that scores each response alone."""
    verdict_ids: list[str]


def costly_verdicts(pairs: Sequence[UncertainPair], conclusions: Sequence[Verdict]) -> list[CostlyVerdict | None]:
    """Return the costly judge's verdict on each pair, from its conclusions; None if it has no valid one."""
    concluded = [verdict for verdict in conclusions if verdict.score is not None]
    alone = {(verdict.prompt_id, verdict.sample_id): verdict for verdict in concluded if verdict.opponent_id is None}
    compared = {(verdict.prompt_id, verdict.sample_id, verdict.opponent_id): verdict for verdict in concluded}
    verdicts: list[CostlyVerdict | None] = []
    for pair in pairs:
        name = pair.group.prompt_id
        first, second = alone.get((name, pair.chosen)), alone.get((name, pair.rejected))
        forward, backward = (
            compared.get((name, pair.chosen, pair.rejected)),
            compared.get((name, pair.rejected, pair.chosen)),
        )
        if first is not None and second is not None:
            verdicts.append(CostlyVerdict(_difference(first, second), None, [first.verdict_id, second.verdict_id]))
        elif forward is not None and forward.score is not None:
            verdicts.append(CostlyVerdict(2 * forward.score - 1, forward.score, [forward.verdict_id]))
        elif backward is not None and backward.score is not None:
            verdicts.append(CostlyVerdict(1 - 2 * backward.score, 1 - backward.score, [backward.verdict_id]))
        else:
            verdicts.append(None)
    return verdicts


def _difference(first: Verdict, second: Verdict) -> float:
    assert first.score is not None
    assert second.score is not None
    equal = math.isclose(first.score, second.score, rel_tol=SCORE_NOISE, abs_tol=SCORE_NOISE)
    return 0.0 if equal else first.score - second.score
