"""The tables of a round's preferences.

Pairs, verdicts, what became of each prompt, and the groups that judges are given.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from components.artifacts import digest, read_table, write_bytes, write_table
from components.data.messages import Messages, format_messages, parse_messages
from components.data.prompts import prompt_id
from components.judges.protocol import Group, Verdict, conclusions, scores
from components.preferences.labels import TIED
from components.records import PROMPT_OUTCOMES, JudgeUnavailable

PAIRS = "preferences.parquet"
PORTABLE = "preferences.jsonl"
SIDES = ("chosen", "rejected")
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


def pair_row(
    messages: Messages,
    chosen: str | None,
    rejected: str | None,
    *,
    p: float,
    margin: float | None,
    tag: str,
    judge: str,
    verdict_ids: list[str],
) -> dict[str, Any]:
    """One row.

    Args:
        messages: The prompt.
        chosen: Text of the preferred answer, or of a single desirable one; None of an undesirable one.
        rejected: Text of the other one; None of a single desirable one.
        p: Probability that chosen is really preferred, or that a single response is what its side says, in [0, 1].
        margin: Difference of the judge's scores; None where a data set does not say.
        tag: Kind of preference.
        judge: Who decided.
        verdict_ids: The conclusions that it was decided by.
    """
    prompt = format_messages(messages)
    return {
        "pair_id": digest([prompt, chosen, rejected])[:16],
        "prompt_id": prompt_id(messages),
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "p": p,
        "margin": margin,
        "tag": tag,
        "judge": judge,
        "verdict_ids": verdict_ids,
    }


def write_pairs(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes `preferences.parquet` in a directory."""
    write_table(out / PAIRS, pd.DataFrame(list(rows), columns=list(PAIR_TYPES)).astype(PAIR_TYPES))


def write_portable(out: Path) -> None:
    """Writes `preferences.jsonl` beside `preferences.parquet`: chat messages in the form of TRL and `seed_pairs`.

    Pairs have the columns prompt, chosen and rejected; single responses prompt, completion and label.
    """
    lines = []
    answers: dict[str, Any]
    for row in read_table(out / PAIRS).to_dict("records"):
        answers = {side: [{"role": "assistant", "content": row[side]}] for side in SIDES if isinstance(row[side], str)}
        if len(answers) < len(SIDES):
            ((side, completion),) = answers.items()
            answers = {"completion": completion, "label": side == "chosen"}
        given = {name: None if pd.isna(row[name]) else row[name] for name in ("p", "margin", "tag")}
        line = {"prompt": parse_messages(row["prompt"]), **answers, **given}
        lines.append(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    write_bytes(out / PORTABLE, "".join(lines).encode())


VERDICTS = "verdicts.parquet"
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


def write_verdicts(out: Path, verdicts: Iterable[Verdict]) -> None:
    """Writes `verdicts.parquet` in a directory: conclusions, and what they were made from."""
    rows = [asdict(verdict) for verdict in verdicts]
    write_table(out / VERDICTS, pd.DataFrame(rows, columns=list(VERDICT_TYPES)).astype(VERDICT_TYPES))


def read_verdicts(table: pd.DataFrame) -> list[Verdict]:
    """The verdicts of a table as they were written."""
    plain = table[list(VERDICT_TYPES)].astype(object)
    return [Verdict(*row) for row in plain.where(plain.notna(), None).itertuples(index=False)]


def check_invalid_share(judge: str, verdicts: Iterable[Verdict], limit: float) -> None:
    """Stops a round whose judge gives no usable verdicts.

    Args:
        judge: The judge's name.
        verdicts: What it said; conclusions count.
        limit: Share of invalid conclusions that is allowed, in [0, 1].

    Raises:
        JudgeUnavailable: There are no verdicts, or too many are invalid.
    """
    concluded: Sequence[Verdict] = conclusions(verdicts)
    invalid = [verdict for verdict in concluded if verdict.status == "invalid"]
    if not concluded:
        raise JudgeUnavailable(f"judge {judge} gave no verdicts: there were no responses to judge")
    share = len(invalid) / len(concluded)
    if share > limit:
        detail, count = Counter(verdict.detail for verdict in invalid).most_common(1)[0]
        raise JudgeUnavailable(
            f"judge {judge}: {len(invalid)} of {len(concluded)} verdicts ({share:.1%}) are invalid, more than "
            f"preferences.max_invalid_share = {limit}; {count} times: {detail}"
        )


OUTCOME_TYPES = {"prompt_id": "str", "outcome": "str", "pairs": "int64", "tied_pairs": "int64", "mean_score": "float64"}


def write_outcomes(
    out: Path, rows: Sequence[Mapping[str, Any]], outcomes: Mapping[str, str], verdicts: Sequence[Verdict]
) -> None:
    """Write a row per prompt.

    Its outcome, its pairs, those of them that are ties, and its responses' mean score (null without any).

    Args:
        out: Directory.
        rows: The pairs, as `pair_row` makes them.
        outcomes: How each prompt ended, by prompt_id.
        verdicts: What the judge said.
    """
    pairs = Counter(row["prompt_id"] for row in rows)
    tied = Counter(row["prompt_id"] for row in rows if row["p"] == TIED)
    given: defaultdict[str, list[float]] = defaultdict(list)
    for (prompt, _), score in scores(verdicts).items():
        given[prompt].append(score)
    means = {prompt: math.fsum(several) / len(several) for prompt, several in given.items()}
    table = [(prompt, outcome, pairs[prompt], tied[prompt], means.get(prompt)) for prompt, outcome in outcomes.items()]
    write_table(out / PROMPT_OUTCOMES, pd.DataFrame(table, columns=list(OUTCOME_TYPES)).astype(OUTCOME_TYPES))


def read_groups(prompts: pd.DataFrame, responses: pd.DataFrame) -> list[Group]:
    """One group for each prompt in the table's order, also for a prompt without responses.

    Args:
        prompts: Columns prompt_id and messages.
        responses: Columns prompt_id, sample_id and text, in any order.
    """
    texts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, sample_id, text in zip(responses["prompt_id"], responses["sample_id"], responses["text"], strict=True):
        texts[name].append((int(sample_id), text))
    groups = [
        Group(name, parse_messages(messages), tuple(sorted(texts.pop(name, []))))
        for name, messages in zip(prompts["prompt_id"], prompts["messages"], strict=True)
    ]
    assert not texts, f"responses to prompts that were not drawn: {sorted(texts)[:3]}"
    return groups
