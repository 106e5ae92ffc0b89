"""The door of preference collection: judges a round's responses and builds pairs, or takes the pairs of a data set.

Every prompt (or row of the data set) is counted once: as a pair, a tie, below the margin, or without a verdict.
"""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from components.artifacts import derive_seed, digest, read_table, write_json, write_table
from components.config import PreferencesConfig
from components.judges import load_pinned_judge
from components.judges.protocol import JUDGING, Group, JudgeContext, Key, Verdict, scores
from components.preferences.builders import BUILDERS, Pair, ScoredSample, soft_label
from components.preferences.pairs_file import SeedPair, load_seed_pairs
from components.prompts import prompt_id
from components.records import Artifact, CollectRequest, JudgeUnavailable
from components.tokens import Messages, format_messages, parse_messages

VERDICT_TYPES = {
    "verdict_id": "str",
    "prompt_id": "str",
    "sample_id": "Int64",
    "opponent_id": "Int64",
    "score": "float64",
    "status": "str",
    "judge": "str",
    "detail": "str",
    "part": "str",
}
PAIR_TYPES = {
    "pair_id": "str",
    "prompt_id": "str",
    "prompt": "str",
    "chosen": "str",
    "rejected": "str",
    "p": "float64",
    "margin": "float64",
    "tag": "str",
    "judge": "str",
    "verdict_ids": "object",
}
OUTCOMES = ("pairs", "ties", "below_margin", "no_verdict")

log = logging.getLogger(__name__)


def run(request: CollectRequest, out: Path) -> None:
    """Writes `verdicts.parquet`, `preferences.parquet` and `collect.json`.

    Raises:
        JudgeUnavailable: The judge gave no verdicts, or more than `max_invalid_share` of them are invalid.
        ValueError: The judge or the data set is unusable, or is not what it was when the campaign pinned it.
    """
    if request.responses is None or request.prompts is None:
        _collect_seed_pairs(request, out)
    else:
        _collect_judged(request, request.responses, request.prompts, out)


def _collect_judged(request: CollectRequest, responses: Artifact, prompts: Artifact, out: Path) -> None:
    groups = _groups(read_table(prompts), read_table(responses))
    context = JudgeContext(out.parent / JUDGING, policy=request.policy, start=request.start, limits=request.limits)
    judge = load_pinned_judge(request.judge, context)
    verdicts = judge.judge(groups)
    _write(out / "verdicts.parquet", [asdict(verdict) for verdict in verdicts], VERDICT_TYPES)
    _check_invalid_share(judge.name, verdicts, request.preferences.max_invalid_share)
    scored = scores(verdicts)
    rows, outcomes = _build_pairs(groups, verdicts, scored, judge.name, request.preferences, request.seed)
    _write(out / "preferences.parquet", rows, PAIR_TYPES)
    concluded = [verdict for verdict in verdicts if not verdict.part]
    counts = {
        "prompts": len(groups),
        "responses": sum(len(group.responses) for group in groups),
        "verdicts": len(concluded),
        "invalid_verdicts": sum(verdict.status == "invalid" for verdict in concluded),
        "mean_score": math.fsum(scored.values()) / len(scored) if scored else None,
    }
    _write_counts(out, counts, outcomes)


def _collect_seed_pairs(request: CollectRequest, out: Path) -> None:
    preferences = request.preferences
    seeds = load_seed_pairs(preferences.seed_pairs, split=preferences.seed_pairs_split)
    if seeds.digest != request.seed_pairs_digest:
        raise ValueError(f"preferences.seed_pairs {preferences.seed_pairs} changed while the round was running: start it again")
    if seeds.split_earlier:
        places = len(seeds.split_earlier), seeds.split_earlier[0]
        log.warning("%s: %d rows part before the last answer and give no pair; the first is %s", preferences.seed_pairs, *places)
    outcomes = Counter({"no_verdict": len(seeds.split_earlier)})
    rows = []
    for pair in seeds.pairs:
        outcome = _seed_outcome(pair, preferences)
        outcomes[outcome] += 1
        if outcome == "pairs":
            rows.append(_seed_row(pair, preferences))
    _write(out / "verdicts.parquet", [], VERDICT_TYPES)
    _write(out / "preferences.parquet", rows, PAIR_TYPES)
    rows_read = len(seeds.pairs) + len(seeds.split_earlier)
    counts = {"prompts": rows_read, "responses": 0, "verdicts": 0, "invalid_verdicts": 0, "mean_score": None}
    _write_counts(out, counts, outcomes)


def _groups(prompts: pd.DataFrame, responses: pd.DataFrame) -> list[Group]:
    """One group for each prompt in the table's order, also for a prompt without responses."""
    texts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, sample_id, text in zip(responses["prompt_id"], responses["sample_id"], responses["text"], strict=True):
        texts[name].append((int(sample_id), text))
    groups = [
        Group(name, parse_messages(messages), tuple(sorted(texts.pop(name, []))))
        for name, messages in zip(prompts["prompt_id"], prompts["messages"], strict=True)
    ]
    assert not texts, f"responses to prompts that were not drawn: {sorted(texts)[:3]}"
    return groups


def _check_invalid_share(judge: str, raw: Sequence[Verdict], limit: float) -> None:
    verdicts = [verdict for verdict in raw if not verdict.part]
    invalid = [verdict for verdict in verdicts if verdict.status == "invalid"]
    if not verdicts:
        raise JudgeUnavailable(f"judge {judge} gave no verdicts: there were no responses to judge")
    share = len(invalid) / len(verdicts)
    if share > limit:
        detail, count = Counter(verdict.detail for verdict in invalid).most_common(1)[0]
        raise JudgeUnavailable(
            f"judge {judge}: {len(invalid)} of {len(verdicts)} verdicts ({share:.1%}) are invalid, more than "
            f"preferences.max_invalid_share = {limit}; {count} times: {detail}"
        )


def _build_pairs(
    groups: Sequence[Group],
    verdicts: Iterable[Verdict],
    scored: dict[Key, float],
    judge: str,
    preferences: PreferencesConfig,
    seed: int,
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The pairs' rows, and how many prompts ended how."""
    cited = _verdict_ids(verdicts)
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
        row = _row(group.messages, outcome.chosen.text, outcome.rejected.text)
        evidence = dict.fromkeys(cited[name, outcome.chosen.sample_id] + cited[name, outcome.rejected.sample_id])
        row |= {"p": soft_label(outcome.margin, preferences), "margin": outcome.margin, "tag": preferences.tag}
        rows.append(row | {"judge": judge, "verdict_ids": list(evidence)})
    return rows, outcomes


def _verdict_ids(verdicts: Iterable[Verdict]) -> defaultdict[Key, list[str]]:
    """The valid conclusions on each response."""
    found: defaultdict[Key, list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.status == "ok" and not verdict.part:
            found[verdict.prompt_id, verdict.sample_id].append(verdict.verdict_id)
            if verdict.opponent_id is not None:
                found[verdict.prompt_id, verdict.opponent_id].append(verdict.verdict_id)
    return found


def _seed_outcome(pair: SeedPair, preferences: PreferencesConfig) -> str:
    """What a data set's row counts as; one without a margin, or whose margin is negative, is left to validation."""
    if pair.margin is None or pair.margin < 0:
        return "pairs"
    if pair.margin == 0:
        return "ties"
    return "pairs" if pair.margin > preferences.min_margin else "below_margin"


def _seed_row(pair: SeedPair, preferences: PreferencesConfig) -> dict[str, Any]:
    p = pair.p
    if p is None and pair.margin is None and preferences.soft_labels != "none":
        raise ValueError(
            f"preferences.soft_labels = {preferences.soft_labels} needs p or margin in every row of {preferences.seed_pairs}: "
            "add it, or use none"
        )
    if p is None:
        p = 1.0 if pair.margin is None else soft_label(pair.margin, preferences)
    row = _row(pair.messages, pair.chosen, pair.rejected)
    row |= {"p": p, "margin": pair.margin, "tag": preferences.tag if pair.tag is None else pair.tag}
    return row | {"judge": f"dataset:{Path(preferences.seed_pairs).name}", "verdict_ids": []}


def _row(messages: Messages, chosen: str, rejected: str) -> dict[str, Any]:
    prompt = format_messages(messages)
    pair_id = digest([prompt, chosen, rejected])[:16]
    return {"pair_id": pair_id, "prompt_id": prompt_id(messages), "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _write(path: Path, rows: Sequence[dict[str, Any]], types: dict[str, str]) -> None:
    table = pd.DataFrame(rows, columns=list(types)).astype(types)
    write_table(path, table)


def _write_counts(out: Path, counts: dict[str, Any], outcomes: Counter[str]) -> None:
    ended = {outcome: outcomes[outcome] for outcome in OUTCOMES}
    if sum(ended.values()) != counts["prompts"] or outcomes.keys() - set(OUTCOMES):
        raise AssertionError(f"the outcomes {dict(outcomes)} do not add up to {counts['prompts']} prompts")
    write_json(out / "collect.json", {**counts, **ended})
