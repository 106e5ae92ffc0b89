"""ShareGPT's form: `conversations` of `from` and `value`, with `chosen` and `rejected`, or with `label`.

The columns are those of LLaMA-Factory's preference and KTO data. A conversation with neither holds no preference.
"""

import json
from typing import Any

from components.data.answers import read_answer
from components.data.conversations import with_context
from components.data.forms.form import CHAT, Form, Reading, nested
from components.data.forms.pair_rows import row_label
from components.data.forms.rated import Choice
from components.data.messages import without_tools
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair
from components.data.sharegpt import to_sharegpt

SIDES = ("chosen", "rejected")


def _read(read: Rows, _: Choice) -> Reading:
    loaded = [_pair(row) for row in read.rows]
    earlier = tuple(row.place for row, pair in zip(read.rows, loaded, strict=True) if pair is None)
    return Reading([pair for pair in loaded if pair is not None], earlier)


def _pair(row: Row) -> SeedPair | None:
    turns = nested(row, "conversations")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f'{row.place}: conversations must be a list of messages such as {{"from": ..., "value": ...}}')
    if row.values.get("chosen") is None and row.values.get("rejected") is None:
        return _response(row, turns)
    for side in SIDES:
        if row.values.get(side) is None:
            raise ValueError(f"{row.place} has no {side}: a pair needs the columns chosen and rejected")
    (before, chosen), (other, rejected) = (
        read_answer(_answer(row, side), turns, f"{row.place} {side}") for side in SIDES
    )
    return (
        None if before != other else SeedPair(with_context(before, row), chosen, rejected, None, None, None, row.place)
    )


def _answer(row: Row, side: str) -> Any:
    value = row.values[side]
    return nested(row, side) if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") else value


def _response(row: Row, turns: list[Any]) -> SeedPair:
    if row.values.get("label") is None:
        raise ValueError(
            f"{row.place} has conversations, but neither chosen and rejected nor label: a conversation alone says "
            "nothing about what is preferred"
        )
    label = row_label(row)
    before, answer = read_answer(turns, None, f"{row.place} conversations")
    chosen, rejected = (answer, None) if label else (None, answer)
    return SeedPair(with_context(before, row), chosen, rejected, None, None, None, row.place)


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    plain, tools = without_tools(pair.messages)
    turns = to_sharegpt(plain)
    answers: dict[str, Any] = {
        side: {"from": "gpt", "value": answer}
        for side, answer in zip(SIDES, (pair.chosen, pair.rejected), strict=True)
        if answer is not None
    }
    if pair.is_single:
        turns += answers.values()
        answers = {"label": pair.chosen is not None}
    context = {"tools": json.dumps(tools, ensure_ascii=False)} if tools else {}
    return [{"conversations": turns, **answers, **context}]


def _matches(read: Rows) -> bool:
    """Beside a column prompt, conversations are what the data set carries along."""
    return "conversations" in read.columns and not {"prompt", "completion"} & set(read.columns)


SHAREGPT = Form(
    name="sharegpt",
    title="ShareGPT: conversations, with chosen and rejected or with label, as LLaMA-Factory reads it",
    holds=CHAT | {"single"},
    columns=frozenset({"conversations", *SIDES, "label", "system", "tools"}),
    matches=_matches,
    read=_read,
    write=_write,
    fragile="ids of tool calls, names of tools' results, or a text beside a tool call",
)
