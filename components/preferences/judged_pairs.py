"""Pairs from what a judge said of a round's responses. Knows the builders, and no judge."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from components.config import PreferencesConfig
from components.judges.protocol import Group, Key, Verdict
from components.preferences.builders import BUILDERS
from components.preferences.candidates import Candidates, Pair, candidates
from components.preferences.counts import PAIRED
from components.preferences.judged_prompts import judged_prompts
from components.preferences.pair_table import pair_row
from components.preferences.verdict_table import conclusions


class Built(NamedTuple):
    """The pairs of a round."""

    rows: list[dict[str, Any]]
    """As `pair_row` makes them."""
    outcomes: dict[str, str]
    """How each prompt ended, by prompt_id in the order of the prompts: one of `counts.OUTCOMES`."""
    revisions: dict[str, int] | None = None
    """Responses that were revised, by the outcome of their revision; None where none was to be."""


def build_pairs(groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int) -> Built:
    """Builds the pairs that the configured builder finds in the verdicts.

    Args:
        groups: Prompts and responses.
        verdicts: What the judge said of them.
        judge: Its name.
        preferences: Names builder, margin and labels.
        seed: Of the stage.

    Raises:
        ValueError: The labels are to be the judge's word on two answers, and it compared none.
    """
    _check_compared(verdicts, judge, preferences)
    builder = BUILDERS[preferences.pairs]
    offers = [candidates(builder.rescored(prompt), preferences) for prompt in judged_prompts(groups, verdicts)]
    pairs = iter(builder.choose([offered for offered in offers if isinstance(offered, Candidates)], preferences, seed))
    cited = verdict_ids(verdicts)
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, str] = {}
    for group, offered in zip(groups, offers, strict=True):
        outcomes[group.prompt_id] = PAIRED if isinstance(offered, Candidates) else offered
        if isinstance(offered, Candidates):
            rows += [_row(group, pair, judge, cited, preferences) for pair in next(pairs)]
    return Built(rows, outcomes)


def _check_compared(verdicts: Iterable[Verdict], judge: str, preferences: PreferencesConfig) -> None:
    if preferences.soft_labels == "verdict" and all(verdict.opponent_id is None for verdict in conclusions(verdicts)):
        raise ValueError(
            f"preferences.soft_labels = verdict needs a judge that compares, and {judge} scores one response at a time: use bradley_terry"
        )


def _row(group: Group, pair: Pair, judge: str, cited: defaultdict[Key, list[str]], preferences: PreferencesConfig) -> dict[str, Any]:
    sample_ids = pair.chosen.sample_ids + pair.rejected.sample_ids
    evidence = dict.fromkeys(name for sample_id in sample_ids for name in cited[group.prompt_id, sample_id])
    return pair_row(
        group.messages,
        pair.chosen.text,
        pair.rejected.text,
        p=pair.p,
        margin=pair.margin,
        tag=preferences.tag,
        judge=judge,
        verdict_ids=list(evidence),
    )


def verdict_ids(verdicts: Iterable[Verdict]) -> defaultdict[Key, list[str]]:
    """The valid conclusions on each response."""
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for verdict in conclusions(verdicts):
        if verdict.status == "ok":
            found[verdict.prompt_id, verdict.sample_id].append(verdict.verdict_id)
            if verdict.opponent_id is not None:
                found[verdict.prompt_id, verdict.opponent_id].append(verdict.verdict_id)
    return found
