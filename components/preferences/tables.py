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
from components.data.columns import COLUMNS, columns_of_table, format_columns
from components.data.messages import Messages, format_messages, parse_messages, without_tools
from components.data.prompts import prompt_id
from components.judges.people import NAME as PEOPLE
from components.judges.protocol import Group, SampledTokens, Verdict, conclusions, scores
from components.preferences.labels import TIED
from components.records import PROMPT_OUTCOMES, JudgeUnavailable

NO_RESPONSES = "there were no responses to judge"
NO_VOTES = (
    "people gave no vote that counts: every pair was skipped or left, or everybody is surely below "
    "people.min_gold_accuracy; a start with --accept-changes takes a lower one, and keeps the votes"
)
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

TOKEN_TYPES = {
    "prompt_ids": "object",
    "chosen_ids": "object",
    "rejected_ids": "object",
    "chosen_finish": "str",
    "rejected_finish": "str",
    "sampling": "str",
}
"""Columns of what the policy sampled: token ids, finish reasons and the law. Null in an answer from outside."""


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


def write_pairs(out: Path, rows: Iterable[dict[str, Any]], groups: Iterable[Group]) -> None:
    """Write `preferences.parquet` in a directory.

    Args:
        out: Directory.
        rows: The pairs, rows of `pair_row`.
        groups: The prompts and responses that they come from. An answer that the policy sampled keeps its tokens, so
            that what is trained on is what was sampled. Pairs have their prompts' other columns, if any prompt has.
    """
    of_prompt = {group.prompt_id: group for group in groups}
    types = PAIR_TYPES | TOKEN_TYPES
    carried = [row | _sampled(row, of_prompt.get(row["prompt_id"])) for row in rows]
    if any(group.columns for group in of_prompt.values()):
        types = types | {COLUMNS: "str"}
        for row in carried:
            group = of_prompt.get(row["prompt_id"])
            row[COLUMNS] = None if group is None else format_columns(group.columns)
    write_table(out / PAIRS, pd.DataFrame(carried, columns=list(types)).astype(types))


def _sampled(row: Mapping[str, Any], group: Group | None) -> dict[str, Any]:
    """Return the token columns of a pair; without a sampled answer there is nothing in them."""
    if group is None or not group.tokens:
        return {}
    tokens = {text: group.tokens[sample_id] for sample_id, text in reversed(group.responses)}
    answers = {side: tokens[row[side]] for side in SIDES if row[side] in tokens}
    if not answers:
        return {}
    columns: dict[str, Any] = {"prompt_ids": list(group.prompt_ids)}
    for side, answer in answers.items():
        columns |= {f"{side}_ids": list(answer.token_ids), f"{side}_finish": answer.finish_reason}
    return columns | {"sampling": next(iter(answers.values())).sampling}


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
        raise JudgeUnavailable(NO_VOTES if judge == PEOPLE else f"judge {judge} returned no verdicts: {NO_RESPONSES}")
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
        prompts: Columns prompt_id and messages, the token ids of what the policy read, and the rows' other columns
            if something reads them.
        responses: Columns prompt_id, sample_id and text, in any order, and what the policy sampled. The columns of
            tokens are missing from files of versions before 0.2.
    """
    texts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    tokens: defaultdict[str, dict[int, SampledTokens]] = defaultdict(dict)
    has_tokens = "token_ids" in prompts
    for row in responses.to_dict("records"):
        name, sample_id = row["prompt_id"], int(row["sample_id"])
        texts[name].append((sample_id, row["text"]))
        if has_tokens:
            ids = tuple(int(token) for token in row["token_ids"])
            tokens[name][sample_id] = SampledTokens(ids, row["finish_reason"], row.get("sampling"))
    groups = [
        Group(
            row["prompt_id"],
            parse_messages(row["messages"]),
            tuple(sorted(texts.pop(row["prompt_id"], []))),
            prompt_ids=tuple(int(token) for token in row["token_ids"]) if has_tokens else (),
            tokens=tokens[row["prompt_id"]],
            tag=row["tag"] if isinstance(row.get("tag"), str) else None,
            columns=columns,
        )
        for row, columns in zip(prompts.to_dict("records"), columns_of_table(prompts), strict=True)
    ]
    assert not texts, f"responses to prompts that were not drawn: {sorted(texts)[:3]}"
    return groups
