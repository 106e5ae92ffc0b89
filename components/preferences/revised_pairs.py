"""Pairs by critique and revision: a prompt's worst response is rejected for what a chat model made of it.

Knows no endpoint.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol, get_args

from components.artifacts import derive_seed
from components.config import PreferencesConfig
from components.judges.principles import Principle
from components.judges.protocol import Group, Key, Verdict, scores
from components.judges.revision import Draft, Outcome, Revision
from components.judges.violations import violated_principles
from components.preferences.counts import NOT_REVISED, PAIRED
from components.preferences.judged_pairs import BuiltPairs, verdict_ids
from components.preferences.tables import pair_row


class Revises(Protocol):
    """Who writes revisions."""

    @property
    def principles(self) -> Sequence[Principle]:
        """What responses are criticised by."""
        ...

    def revise(self, drafts: Sequence[Draft]) -> list[Revision]:
        """One revision a draft, in order."""
        ...


def revised_pairs(
    groups: Sequence[Group],
    verdicts: Sequence[Verdict],
    *,
    reviser: Revises,
    judge: str,
    preferences: PreferencesConfig,
    seed: int,
) -> BuiltPairs:
    """Has the worst response to each prompt revised, and pairs the revision with it.

    A response is criticised by a principle that it violates, drawn by weight; by any where it violates none. Nobody has
    compared the revision with the response, so a pair is certain (p = 1) and has no margin. A revision that says the
    same, or nothing, or that cannot be read, is counted and gives no pair.

    Args:
        groups: Prompts and responses.
        verdicts: What a constitution said of them.
        reviser: Who revises, and by which principles.
        judge: The judge's name.
        preferences: Names the tag.
        seed: Of the stage.
    """
    scored, violated = scores(verdicts), violated_principles(verdicts)
    worst = {group.prompt_id: sample_id for group in groups if (sample_id := _worst(group, scored)) is not None}
    drafts = {
        group.prompt_id: _draft(
            group, worst[group.prompt_id], violated, reviser.principles, derive_seed(seed, group.prompt_id)
        )
        for group in groups
        if group.prompt_id in worst
    }
    revisions = dict(zip(drafts, reviser.revise(list(drafts.values())), strict=True))
    cited = verdict_ids(verdicts)
    row = partial(pair_row, p=1.0, margin=None, tag=preferences.tag, judge=judge)
    rows = [
        row(drafts[name].messages, revision.text, drafts[name].text, verdict_ids=cited[name, worst[name]])
        for name, revision in revisions.items()
        if revision.outcome == "revised"
    ]
    outcomes = {group.prompt_id: _ended(revisions.get(group.prompt_id)) for group in groups}
    counts = Counter(revision.outcome for revision in revisions.values())
    return BuiltPairs(rows, outcomes, {outcome: counts[outcome] for outcome in get_args(Outcome)})


def _worst(group: Group, scored: Mapping[Key, float]) -> int | None:
    """The response with the lowest score, among equals the first sampled; None where none has a score."""
    known = [
        (scored[group.prompt_id, number], number)
        for number, _ in group.responses
        if (group.prompt_id, number) in scored
    ]
    return min(known)[1] if known else None


def _draft(
    group: Group, sample_id: int, violated: Mapping[Key, set[str]], principles: Sequence[Principle], seed: int
) -> Draft:
    names = violated.get((group.prompt_id, sample_id), set())
    among = [principle for principle in principles if principle.name in names] or list(principles)
    principle = random.Random(seed).choices(among, weights=[principle.weight for principle in among])[0]
    return Draft(group.messages, dict(group.responses)[sample_id], principle)


def _ended(revision: Revision | None) -> str:
    if revision is None:
        return "no_verdict"
    return PAIRED if revision.outcome == "revised" else NOT_REVISED
