"""Training rows from the thumbs and corrections of users. Knows no judge and no store."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from components.artifacts import read_json, read_table, write_json, write_table
from components.config import PreferencesConfig
from components.data.funnel import LeftOut, Step, step
from components.data.messages import Messages, format_messages, parse_messages, with_system
from components.preferences.counts import COUNTS, PAIRED, pair_counts
from components.preferences.labels import sigmoid
from components.preferences.tables import PAIRS, pair_row

JUDGE = "users"
"""What the column `judge` says of rows that come from users."""


class ThumbRows(NamedTuple):
    """The training rows of a round's thumbs."""

    rows: list[dict[str, Any]]
    """Rows of `pair_row`: a pair for each correction, a single response for each answer with thumbs alone."""
    outcomes: list[str]
    """How each distinct answer or correction ended: `paired`, or `ties`."""

    @property
    def step(self) -> Step:
        """What was left out, in answers."""
        ties = LeftOut(
            count=self.outcomes.count("ties"),
            cause="as many thumbs say up as down",
            remedy="wait for more thumbs",
        )
        return step(len(self.outcomes), "answers", [ties])


class _Answer(NamedTuple):
    """An answer, or an answer and its correction, that users rated."""

    prompt: str
    response: str
    correction: str | None


def thumb_rows(table: pd.DataFrame, preferences: PreferencesConfig, *, system_prompt: str) -> ThumbRows:
    """Return one row per rated answer, however many users rated it, in the order of the first thumbs.

    Args:
        table: `thumbs.parquet`; rows with a reason are in quarantine and are left out.
        preferences: Tag and noise. With a noise of e, and both answers alike before any thumb, an answer with n more
            thumbs for one side belongs to it with p = sigmoid(n log((1 - e) / e)), which is 1 - e for a single thumb.
        system_prompt: `policy.system_prompt`, which prompts get that have no system message.
    """
    votes: Counter[_Answer] = Counter()
    cited: dict[_Answer, list[str]] = {}
    for row in table[table["reason"].isna()].to_dict("records"):
        prompt = format_messages(with_system(parse_messages(row["prompt"]), system_prompt))
        correction = row["correction"] if isinstance(row["correction"], str) else None
        answer = _Answer(prompt, row["response"], correction)
        votes[answer] += 1 if correction is not None or row["thumb"] == "up" else -1
        cited.setdefault(answer, []).append(row["row_id"])
    decided = {answer: votes[answer] for answer in cited if votes[answer]}
    rows = [_row(answer, excess, cited[answer], preferences) for answer, excess in decided.items()]
    return ThumbRows(rows, [PAIRED if answer in decided else "ties" for answer in cited])


def _row(answer: _Answer, excess: int, row_ids: list[str], preferences: PreferencesConfig) -> dict[str, Any]:
    chosen: str | None
    rejected: str | None
    if answer.correction is not None:
        chosen, rejected = answer.correction, answer.response
    else:
        chosen, rejected = (answer.response, None) if excess > 0 else (None, answer.response)
    messages: Messages = parse_messages(answer.prompt)
    return pair_row(
        messages,
        chosen,
        rejected,
        p=_certainty(abs(excess), preferences.feedback.noise),
        margin=None,
        tag=preferences.tag,
        judge=JUDGE,
        verdict_ids=row_ids,
    )


def _certainty(excess: int, noise: float) -> float:
    return sigmoid(excess * math.log((1 - noise) / noise)) if noise else 1.0


def add_to_round(out: Path, rows: Iterable[dict[str, Any]], counts: dict[str, Any]) -> None:
    """Add thumbs to what a judged round has written, behind its own pairs; their counts go to `collect.json`."""
    table = read_table(out / PAIRS)
    added = pd.DataFrame(list(rows), columns=list(table.columns)).astype(table.dtypes)
    both = pd.concat([table, added], ignore_index=True).astype(table.dtypes)
    write_table(out / PAIRS, both)
    totals = pair_counts(both.to_dict("records"))  # type: ignore[arg-type]
    write_json(out / COUNTS, read_json(out / COUNTS) | totals | {"feedback": counts})
