"""TRL's forms of preference data: chat messages, text, an implicit prompt, and KTO's single responses.

Source: TRL's page "Dataset formats and types" and `trl.data_utils` of TRL 1.16. Our own form is TRL's with chat
messages and the columns `p`, `margin` and `tag`.
"""

from typing import Any

from components.data.forms.form import ANNOTATIONS, CHAT, Form, prompt_text
from components.data.forms.pair_rows import COLUMNS, read_pair_rows
from components.data.messages import Messages, without_tools
from components.data.rows import Rows
from components.data.seed_pair import SeedPair
from components.data.transcripts import is_transcript

FRAGILE_TEXT = "a text that looks like a transcript or like chat messages in JSON"
FRAGILE_COLUMN = "a column whose name means something else here"


def _first(read: Rows, column: str) -> Any:
    return read.rows[0].values.get(column)


def _has_pair(read: Rows) -> bool:
    return {"chosen", "rejected"} <= set(read.columns)


def _answer(content: str | None) -> Messages:
    return [{"role": "assistant", "content": content}]


def _prompt(pair: SeedPair) -> dict[str, Any]:
    plain, tools = without_tools(pair.messages)
    return {"prompt": plain, **({"tools": tools} if tools else {})}


def _write_chat(pair: SeedPair) -> list[dict[str, Any]]:
    return [{**_prompt(pair), "chosen": _answer(pair.chosen), "rejected": _answer(pair.rejected)}]


def _write_single(pair: SeedPair) -> list[dict[str, Any]]:
    is_good = pair.chosen is not None
    return [{**_prompt(pair), "completion": _answer(pair.chosen if is_good else pair.rejected), "label": is_good}]


def _write_ratchet(pair: SeedPair) -> list[dict[str, Any]]:
    (row,) = _write_single(pair) if pair.is_single else _write_chat(pair)
    label = {"p": pair.p, "margin": pair.margin, "tag": pair.tag}
    return [dict(pair.columns) | row | {name: value for name, value in label.items() if value is not None}]


def _write_text(pair: SeedPair) -> list[dict[str, Any]]:
    return [{"prompt": prompt_text(pair), "chosen": pair.chosen, "rejected": pair.rejected}]


def _write_implicit(pair: SeedPair) -> list[dict[str, Any]]:
    context = _prompt(pair)
    before = context.pop("prompt")
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    return [{name: [*before, *_answer(text)] for name, text in sides.items()} | context]


def _is_ratchet(read: Rows) -> bool:
    is_pair = _has_pair(read) or {"completion", "label"} <= set(read.columns)
    return is_pair and bool({"p", "margin", "tag"} & set(read.columns))


def _is_text(read: Rows) -> bool:
    texts = [_first(read, name) for name in ("prompt", "chosen", "rejected")]
    return _has_pair(read) and all(isinstance(text, str) and not is_transcript(text) for text in texts)


RATCHET = Form(
    name="ratchet",
    title="TRL's chat form with p, margin and tag, as `ratchet collect` writes it",
    holds=CHAT | ANNOTATIONS | {"single", "tie", "a label against its order"},
    columns=frozenset(COLUMNS),
    matches=_is_ratchet,
    read=read_pair_rows,
    write=_write_ratchet,
    fragile=FRAGILE_COLUMN,
)
TRL = Form(
    name="trl",
    title="TRL: chat messages in prompt, chosen and rejected",
    holds=CHAT,
    columns=frozenset(COLUMNS),
    matches=_has_pair,
    read=read_pair_rows,
    write=_write_chat,
)
TRL_TEXT = Form(
    name="trl-text",
    title="TRL: text in prompt, chosen and rejected",
    holds=frozenset({"pair"}),
    columns=frozenset(COLUMNS),
    matches=_is_text,
    read=read_pair_rows,
    write=_write_text,
    fragile=FRAGILE_TEXT,
)
TRL_IMPLICIT = Form(
    name="trl-implicit",
    title="TRL: whole conversations in chosen and rejected, without a prompt",
    holds=CHAT,
    columns=frozenset(COLUMNS),
    matches=lambda read: _has_pair(read) and "prompt" not in read.columns,
    read=read_pair_rows,
    write=_write_implicit,
)
KTO = Form(
    name="kto",
    title="KTO: one response per row in completion, and its label",
    holds=(CHAT - {"pair"}) | {"single"},
    columns=frozenset(COLUMNS),
    matches=lambda read: {"completion", "label"} <= set(read.columns),
    read=read_pair_rows,
    write=_write_single,
)
