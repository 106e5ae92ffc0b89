"""Pairs from what a judge said of a round's responses. Knows the builders, and no judge."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from components.artifacts import derive_seed
from components.config import PreferencesConfig
from components.judges.protocol import Group, Key, Verdict, scores
from components.preferences.builders import BUILDERS, Pair, ScoredSample, soft_label
from components.preferences.pair_table import pair_row
from components.preferences.verdict_table import conclusions


class Built(NamedTuple):
    """The pairs of a round."""

    rows: list[dict[str, Any]]
    """As `pair_row` makes them."""
    outcomes: Counter[str]
    """How many prompts ended how; keys of `counts.OUTCOMES`."""


def build_pairs(groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int) -> Built:
    """Builds the pairs that the configured builder finds in the verdicts.

    Args:
        groups: Prompts and responses.
        verdicts: What the judge said of them.
        judge: Its name.
        preferences: Names builder, margin and labels.
        seed: Of the stage.
    """
    scored, cited = scores(verdicts), _verdict_ids(verdicts)
    build = BUILDERS[preferences.pairs]
    rows: list[dict[str, Any]] = []
    outcomes: Counter[str] = Counter()
    for group in groups:
        name = group.prompt_id
        samples = [ScoredSample(number, text, scored[name, number]) for number, text in group.responses if (name, number) in scored]
        outcome = build(samples, preferences.min_margin, derive_seed(seed, name))
        if not isinstance(outcome, Pair):
            outcomes[outcome] += 1
            continue
        outcomes["pairs"] += 1
        evidence = dict.fromkeys(cited[name, outcome.chosen.sample_id] + cited[name, outcome.rejected.sample_id])
        row = pair_row(
            group.messages,
            outcome.chosen.text,
            outcome.rejected.text,
            p=soft_label(outcome.margin, preferences),
            margin=outcome.margin,
            tag=preferences.tag,
            judge=judge,
            verdict_ids=list(evidence),
        )
        rows.append(row)
    return Built(rows, outcomes)


def _verdict_ids(verdicts: Iterable[Verdict]) -> defaultdict[Key, list[str]]:
    """The valid conclusions on each response."""
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for verdict in conclusions(verdicts):
        if verdict.status == "ok":
            found[verdict.prompt_id, verdict.sample_id].append(verdict.verdict_id)
            if verdict.opponent_id is not None:
                found[verdict.prompt_id, verdict.opponent_id].append(verdict.verdict_id)
    return found
