"""Pairs by critique and revision: a prompt's worst response is rejected for a chat model's revision of it.

Knows no endpoint.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import get_args

from components.artifacts import derive_seed
from components.config import PreferencesConfig
from components.judges.principles import Principle
from components.judges.protocol import Group, Key, Verdict, scores
from components.judges.revision import Draft, Outcome, Reviser, Revision
from components.judges.violations import violated_principles
from components.preferences.counts import NOT_REVISED, PAIRED
from components.preferences.judged_pairs import BuiltPairs, verdict_ids
from components.preferences.tables import pair_row


def revised_pairs(
    groups: Sequence[Group],
    verdicts: Sequence[Verdict],
    *,
    reviser: Reviser,
    judge: str,
    preferences: PreferencesConfig,
    seed: int,
) -> BuiltPairs:
    """Revise the worst response to each prompt, and pair the revision with it.

    The critique uses a principle that the response violates, drawn by weight, or any principle if it violates none. No
    judge compares the revision with the response, so a pair is certain (p = 1) and has no margin. A revision that is
    unchanged, empty or unreadable is counted and gives no pair.

    Args:
        groups: Prompts and responses.
        verdicts: Verdicts of a constitution on them.
        reviser: Writes the revisions, and names the principles.
        judge: The judge's name.
        preferences: The tag.
        seed: Seed of the stage.
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
    cited, tags = verdict_ids(verdicts), {group.prompt_id: group.tag or preferences.tag for group in groups}
    row = partial(pair_row, p=1.0, margin=None, judge=judge)
    rows = [
        row(
            drafts[name].messages,
            revision.text,
            drafts[name].text,
            tag=tags[name],
            verdict_ids=cited[name, worst[name]],
        )
        for name, revision in revisions.items()
        if revision.outcome == "revised"
    ]
    outcomes = {group.prompt_id: _ended(revisions.get(group.prompt_id)) for group in groups}
    counts = Counter(revision.outcome for revision in revisions.values())
    return BuiltPairs(rows, outcomes, {outcome: counts[outcome] for outcome in get_args(Outcome)})


def _worst(group: Group, scored: Mapping[Key, float]) -> int | None:
    """Return the response with the lowest score, among equals the first sampled; None if none has a score."""
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
