"""Anthropic's HH form: two transcripts of human and assistant that differ in the last answer (arXiv 2204.05862)."""

from typing import Any

from components.data.forms.form import Form
from components.data.forms.pair_rows import COLUMNS, read_pair_rows
from components.data.rows import Rows
from components.data.seed_pair import SeedPair
from components.data.transcripts import is_transcript

SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def _matches(read: Rows) -> bool:
    answers = [read.rows[0].values.get(name) for name in ("chosen", "rejected")]
    return "prompt" not in read.columns and all(isinstance(text, str) and is_transcript(text) for text in answers)


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    before = "".join(f"\n\n{SPEAKERS[message['role']]}: {message['content']}" for message in pair.messages)
    return [{"chosen": f"{before}\n\nAssistant: {pair.chosen}", "rejected": f"{before}\n\nAssistant: {pair.rejected}"}]


HH = Form(
    name="hh",
    title="HH transcripts: `Human:` and `Assistant:` turns in chosen and rejected",
    holds=frozenset({"pair", "turns"}),
    columns=frozenset(COLUMNS),
    matches=_matches,
    read=read_pair_rows,
    write=_write,
    fragile="spaces or line breaks at the ends of a turn, two turns of one speaker in a row, or a text with a line "
    "that begins with `Human:` or `Assistant:`",
)
