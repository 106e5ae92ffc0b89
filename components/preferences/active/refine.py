"""Asks a costly judge about the pairs that the judge is least sure of, and lets its word replace the judge's.

What the costly judge said stands among the round's verdicts under `COSTLY`, beside the judge's conclusions and never
mixed with them.
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
from components.preferences.labels import TIED, soft_label
from components.preferences.tables import check_invalid_share, pair_row

COSTLY = "costly"
"""Part under which the costly judge's verdicts are kept."""
OUTCOMES = ("agreed", "flipped", "ties", "invalid")
"""What came of a pair that the costly judge was asked about."""


class CostlyJudge(NamedTuple):
    """A costly judge, and how it is used."""

    judge: Judge
    active: ActiveConfig
    implicit_reward: Judge | None
    """Scores by the policy's implicit reward; needed where the choice is by closeness."""


class RefinedPairs(NamedTuple):
    """The pairs of a round after the costly judge was heard."""

    rows: list[dict[str, Any]]
    """As `pair_row` makes them, in the order in which they came."""
    verdicts: list[Verdict]
    """What the costly judge said."""
    counts: dict[str, Any]
    """For `collect.json`: `budget`, `choose_by`, `candidates`, `asked` and what came of them (`OUTCOMES`, which add
    up), `dropped`."""


def costly_judge(judge: Judge, active: ActiveConfig, context: JudgeContext) -> CostlyJudge:
    """A costly judge with what its choice of pairs needs.

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
    """Chooses pairs, has them judged again, and labels them anew.

    A pair that the costly judge sees the other way round is turned; one that it finds tied is dropped, or kept with p =
    0.5 as `preferences.ties` says; one that it cannot judge is treated as if it had not been asked.

    Args:
        rows: The round's pairs, as `pair_row` makes them.
        groups: Prompts and responses.
        verdicts: What the judge said of them.
        costly: Who is asked, and about what.
        preferences: Labels, ties and tag.
        seed: Of the stage.

    Raises:
        JudgeUnavailable: The costly judge cannot be reached, or too many of its verdicts are invalid.
    """
    pairs = uncertain_pairs(rows, groups, verdicts, preferences)
    judge, active = costly.judge, costly.active
    chosen = choose(candidates(pairs, costly.implicit_reward), active, seed=seed)
    asked = [pairs[index].group for index in chosen]
    said = judge.judge(asked) if asked else []
    if asked:
        check_invalid_share(judge.name, said, preferences.max_invalid_share)
    kept = [as_part(verdict, COSTLY) for verdict in dict.fromkeys(said)]
    concluded = [verdict for verdict in kept if verdict.part == COSTLY]
    heard = dict(zip(chosen, costly_verdicts([pairs[index] for index in chosen], concluded), strict=True))
    outcomes: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    for index, pair in enumerate(pairs):
        word = heard.get(index)
        if word is None:
            outcomes["invalid"] += index in heard
            found += [pair.row] if active.rest == "keep" else []
        else:
            outcome, relabelled = _relabelled(pair, word, judge.name, preferences)
            outcomes[outcome] += 1
            found += relabelled
    counts = {"budget": active.budget, "choose_by": active.choose_by, "candidates": len(pairs), "asked": len(asked)}
    counts |= {outcome: outcomes[outcome] for outcome in OUTCOMES} | {"dropped": len(pairs) - len(found)}
    return RefinedPairs(found, kept, counts)


def _relabelled(
    pair: UncertainPair, word: CostlyVerdict, judge: str, preferences: PreferencesConfig
) -> tuple[str, list[dict[str, Any]]]:
    """What came of a pair, and its new row, if it has one."""
    chosen, rejected = pair.row["chosen"], pair.row["rejected"]
    outcome = "ties" if word.margin == 0 else "agreed" if word.margin > 0 else "flipped"
    if outcome == "ties" and preferences.ties == "drop":
        return outcome, []
    if outcome == "flipped":
        chosen, rejected = rejected, chosen
    margin, tag, p = abs(word.margin), pair.row["tag"], _label(word, preferences)
    row = pair_row(
        pair.group.messages, chosen, rejected, p=p, margin=margin, tag=tag, judge=judge, verdict_ids=word.verdict_ids
    )
    return outcome, [row]


def _label(word: CostlyVerdict, preferences: PreferencesConfig) -> float:
    if word.margin == 0:
        return TIED
    if preferences.soft_labels == "verdict" and word.p is not None:
        return max(word.p, 1 - word.p)
    return soft_label(abs(word.margin), preferences)
