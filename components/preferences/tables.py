"""The tables of a round's preferences.

Pairs, verdicts, the outcome of each prompt, and the groups that judges read.
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
from components.data.messages import Messages, format_messages, parse_messages, without_tools
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
    """Return one row of `preferences.parquet`.

    Args:
        messages: The prompt.
        chosen: Text of the preferred answer, or of a single desirable one; None for a single undesirable one.
        rejected: Text of the other answer, or of a single undesirable one; None for a single desirable one.
        p: Probability that chosen is really preferred, or that a single response belongs to its side, in [0, 1].
        margin: Difference of the judge's scores; None if a data set has none.
        tag: Kind of preference.
        judge: The judge or data set that decided.
        verdict_ids: Ids of the conclusions behind the decision.
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
    """Write `preferences.parquet` in a directory."""
    write_table(out / PAIRS, pd.DataFrame(list(rows), columns=list(PAIR_TYPES)).astype(PAIR_TYPES))


def write_portable(out: Path) -> None:
    """Write `preferences.jsonl` beside `preferences.parquet`: chat messages in the form of TRL and `seed_pairs`.

    Pairs have the columns prompt, chosen and rejected; single responses prompt, completion and label. Prompts with
    tools have the column tools.
    """
    lines = []
    answers: dict[str, Any]
    for row in read_table(out / PAIRS).to_dict("records"):
        answers = {side: [{"role": "assistant", "content": row[side]}] for side in SIDES if isinstance(row[side], str)}
        if len(answers) < len(SIDES):
            ((side, completion),) = answers.items()
            answers = {"completion": completion, "label": side == "chosen"}
        label = {name: None if pd.isna(row[name]) else row[name] for name in ("p", "margin", "tag")}
        messages, tools = without_tools(parse_messages(row["prompt"]))
        line = {"prompt": messages, **({"tools": tools} if tools else {}), **answers, **label}
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
    """Write `verdicts.parquet` in a directory: conclusions and the verdicts behind them."""
    rows = [asdict(verdict) for verdict in verdicts]
    write_table(out / VERDICTS, pd.DataFrame(rows, columns=list(VERDICT_TYPES)).astype(VERDICT_TYPES))


def read_verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Return the verdicts of a table as they were written."""
    plain = table[list(VERDICT_TYPES)].astype(object)
    return [Verdict(*row) for row in plain.where(plain.notna(), None).itertuples(index=False)]


def check_invalid_share(judge: str, verdicts: Iterable[Verdict], limit: float) -> None:
    """Stop a round whose judge returns too few usable verdicts.

    Args:
        judge: The judge's name.
        verdicts: Its verdicts; only conclusions count.
        limit: Largest allowed share of invalid conclusions, in [0, 1].

    Raises:
        JudgeUnavailable: There are no verdicts, or too many are invalid.
    """
    concluded: Sequence[Verdict] = conclusions(verdicts)
    invalid = [verdict for verdict in concluded if verdict.status == "invalid"]
    if not concluded:
        raise JudgeUnavailable(f"judge {judge} returned no verdicts: there were no responses to judge")
    share = len(invalid) / len(concluded)
    if share > limit:
        detail, count = Counter(verdict.detail for verdict in invalid).most_common(1)[0]
        raise JudgeUnavailable(
            f"judge {judge}: {len(invalid)} of {len(concluded)} verdicts ({share:.1%}) are invalid, more than "
            f"preferences.max_invalid_share = {limit}; the most frequent reason ({count} times): {detail}"
        )


OUTCOME_TYPES = {"prompt_id": "str", "outcome": "str", "pairs": "int64", "tied_pairs": "int64", "mean_score": "float64"}


def write_outcomes(
    out: Path, rows: Sequence[Mapping[str, Any]], outcomes: Mapping[str, str], verdicts: Sequence[Verdict]
) -> None:
    """Write a row per prompt.

    Columns: its outcome, the number of its pairs, how many of them are ties, and the mean score of its responses (null
    if none has a score).

    Args:
        out: Directory.
        rows: The pairs, rows of `pair_row`.
        outcomes: How each prompt ended, by prompt_id.
        verdicts: The judge's verdicts.
    """
    pairs = Counter(row["prompt_id"] for row in rows)
    tied = Counter(row["prompt_id"] for row in rows if row["p"] == TIED)
    prompt_scores: defaultdict[str, list[float]] = defaultdict(list)
    for (prompt, _), score in scores(verdicts).items():
        prompt_scores[prompt].append(score)
    means = {prompt: math.fsum(values) / len(values) for prompt, values in prompt_scores.items()}
    table = [(prompt, outcome, pairs[prompt], tied[prompt], means.get(prompt)) for prompt, outcome in outcomes.items()]
    write_table(out / PROMPT_OUTCOMES, pd.DataFrame(table, columns=list(OUTCOME_TYPES)).astype(OUTCOME_TYPES))


def read_groups(prompts: pd.DataFrame, responses: pd.DataFrame) -> list[Group]:
    """Return one group per prompt in the table's order, also for a prompt without responses.

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
