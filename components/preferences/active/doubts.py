"""The pairs of a round as they can be judged again, and what speaks for asking about them. Knows no costly judge."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import Group, Judge, Verdict, scores
from components.preferences.active.choice import Candidate
from components.preferences.judged_prompts import judged_prompts
from components.preferences.labels import sigmoid


class Doubted(NamedTuple):
    """A pair of the round that can be judged again."""

    row: dict[str, Any]
    group: Group
    """The prompt with the two responses, in the order of their sample ids, so that their place says nothing."""
    chosen: int
    """Sample id."""
    rejected: int
    """Sample id."""
    p: float
    """Probability that chosen is better, as the judge sees it."""


def doubts(
    rows: Sequence[dict[str, Any]], groups: Sequence[Group], verdicts: Sequence[Verdict], preferences: PreferencesConfig
) -> list[Doubted]:
    """One for each pair, in order; p is the judge's own word on the two, or sigmoid(margin / soft_label_scale) where it scores alone."""
    prompts = {prompt.prompt_id: (group, prompt) for group, prompt in zip(groups, judged_prompts(groups, verdicts), strict=True)}
    found = []
    for row in rows:
        group, prompt = prompts[row["prompt_id"]]
        chosen, rejected = (next(number for number, text in group.responses if text == row[side]) for side in ("chosen", "rejected"))
        two = tuple(response for response in group.responses if response[0] in (chosen, rejected))
        p = prompt.comparisons.get((chosen, rejected))
        p = sigmoid(row["margin"] / preferences.soft_label_scale) if p is None else p
        found.append(Doubted(row, replace(group, responses=two), chosen, rejected, p))
    return found


def candidates(pairs: Sequence[Doubted], implicit_reward: Judge | None) -> list[Candidate]:
    """What the choice looks at; how close the pairs are stays unknown without the judge of implicit rewards, or where it has no word."""
    rewards = {} if implicit_reward is None else scores(implicit_reward.judge([pair.group for pair in pairs]))
    found = []
    for pair in pairs:
        two = [rewards.get((pair.group.prompt_id, number)) for number in (pair.chosen, pair.rejected)]
        closeness = None if two[0] is None or two[1] is None else abs(two[0] - two[1])
        text = " ".join([pair.row["prompt"], pair.row["chosen"], pair.row["rejected"]])
        found.append(Candidate(text, pair.p, closeness))
    return found
