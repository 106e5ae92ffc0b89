"""Has a costly judge decide the pairs that the judge is least sure of, and relabels them by its verdicts.

The costly judge's verdicts stand among the round's verdicts under the part `COSTLY`, and are never mixed with the
judge's conclusions.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from components.config import ActiveConfig, JudgeConfig, PreferencesConfig
from components.judges.protocol import Group, Judge, JudgeContext, Verdict, as_part
from components.judges.registry import load_judge
from components.preferences.active.choice import choose
from components.preferences.active.uncertain_pairs import (
    CostlyVerdict,
    UncertainPair,
    candidates,
    costly_verdicts,
    uncertain_pairs,
)
from components.preferences.candidates import never_chosen
from components.preferences.labels import TIED, soft_label
from components.preferences.tables import check_invalid_share, pair_row

COSTLY = "costly"
"""Part under which the costly judge's verdicts are written."""
OUTCOMES = ("agreed", "flipped", "ties", "invalid")
"""How a pair that went to the costly judge may end."""


class CostlyJudge(NamedTuple):
    """A costly judge with its settings."""

    judge: Judge
    active: ActiveConfig
    implicit_reward: Judge | None
    """Scores by the policy's implicit reward; needed if the choice is by closeness."""


class RefinedPairs(NamedTuple):
    """The pairs of a round after the costly judge's verdicts."""

    rows: list[dict[str, Any]]
    """Rows of `pair_row`, in the order of the input."""
    verdicts: list[Verdict]
    """The costly judge's verdicts."""
    counts: dict[str, Any]
    """For `collect.json`: `budget`, `choose_by`, `candidates`, `asked` with their `OUTCOMES`, which add up to it, and
    `dropped`."""


def costly_judge(judge: Judge, active: ActiveConfig, context: JudgeContext) -> CostlyJudge:
    """Return a costly judge with the implicit reward if its choice of pairs needs it.

    Raises:
        ValueError: The choice is by closeness, and the context names no policy.
    """
    by_closeness = active.choose_by in ("closeness", "both")
    return CostlyJudge(
        judge, active, load_judge(JudgeConfig(kind="implicit_reward"), context) if by_closeness else None
    )


def refine(
    rows: Sequence[dict[str, Any]],
    groups: Sequence[Group],
    verdicts: Sequence[Verdict],
    *,
    costly: CostlyJudge,
    preferences: PreferencesConfig,
    seed: int,
) -> RefinedPairs:
    """Choose pairs, have the costly judge decide them, and relabel them.

    If the costly judge prefers the rejected answer, the two are swapped, or dropped if that answer may not be chosen.
    If it finds them tied, the pair is dropped or kept with p = 0.5, as `preferences.ties` says. If its verdict is
    invalid, the pair is treated as one that was not chosen.

    Args:
        rows: The round's pairs, rows of `pair_row`.
        groups: Prompts and responses.
        verdicts: The judge's verdicts on them.
        costly: The costly judge and its settings.
        preferences: Labels, ties and tag.
        seed: Seed of the stage.

    Raises:
        JudgeUnavailable: The costly judge cannot be reached, or too many of its verdicts are invalid.
    """
    pairs = uncertain_pairs(rows, groups, verdicts, preferences)
    judge, active = costly.judge, costly.active
    chosen = choose(candidates(pairs, costly.implicit_reward), active, seed=seed)
    asked = [pairs[index].group for index in chosen]
    answers = judge.judge(asked) if asked else []
    if asked:
        check_invalid_share(judge.name, answers, preferences.max_invalid_share)
    own_verdicts = [as_part(verdict, COSTLY) for verdict in dict.fromkeys(answers)]
    concluded = [verdict for verdict in own_verdicts if verdict.part == COSTLY]
    of_pair = dict(zip(chosen, costly_verdicts([pairs[index] for index in chosen], concluded), strict=True))
    outcomes: Counter[str] = Counter()
    turned_cut = 0
    refined_rows: list[dict[str, Any]] = []
    for index, pair in enumerate(pairs):
        verdict = of_pair.get(index)
        if verdict is None:
            outcomes["invalid"] += index in of_pair
            refined_rows += [pair.row] if active.rest == "keep" else []
        else:
            outcome, relabelled = _relabelled(pair, verdict, judge.name, preferences)
            outcomes[outcome] += 1
            refined_rows += relabelled
            turned_cut += outcome == "flipped" and not relabelled
    counts = {"budget": active.budget, "choose_by": active.choose_by, "candidates": len(pairs), "asked": len(asked)}
    counts |= {outcome: outcomes[outcome] for outcome in OUTCOMES} | {"dropped": len(pairs) - len(refined_rows)}
    # Of those that it turned around, how many were dropped because the limit cut the answer that it prefers.
    counts["chosen_cut"] = turned_cut
    return RefinedPairs(refined_rows, own_verdicts, counts)


def _relabelled(
    pair: UncertainPair, verdict: CostlyVerdict, judge: str, preferences: PreferencesConfig
) -> tuple[str, list[dict[str, Any]]]:
    """Return a pair's outcome, and its new row unless it is dropped."""
    chosen, rejected = pair.row["chosen"], pair.row["rejected"]
    outcome = "ties" if verdict.margin == 0 else "agreed" if verdict.margin > 0 else "flipped"
    if outcome == "ties" and preferences.ties == "drop":
        return outcome, []
    if outcome == "flipped" and never_chosen(pair.group, pair.rejected, preferences):
        return outcome, []
    if outcome == "flipped":
        chosen, rejected = rejected, chosen
    row = pair_row(
        pair.group.messages,
        chosen,
        rejected,
        p=_label(verdict, preferences),
        margin=abs(verdict.margin),
        tag=pair.row["tag"],
        judge=judge,
        verdict_ids=verdict.verdict_ids,
    )
    return outcome, [row]


def _label(verdict: CostlyVerdict, preferences: PreferencesConfig) -> float:
    if verdict.margin == 0:
        return TIED
    if preferences.soft_labels == "verdict" and verdict.p is not None:
        return max(verdict.p, 1 - verdict.p)
    return soft_label(abs(verdict.margin), preferences)
