"""Demonstrations as prompts with answers: every turn once, nothing held out, nothing that is no text."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.data.content import HeldOutContents
from components.data.demonstrated_answers import (
    CALLS_TOOLS,
    NO_QUESTION,
    REPEATED,
    DemonstratedAnswers,
    answers_of_held_out,
    demonstrated_answers,
)
from components.data.demonstrations import EMPTY_TURN, HELD_OUT, NO_TURN, read_demonstrations

NOTHING = HeldOutContents([], "content")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def answers(source: str, *, system_prompt: str = "", held_out: HeldOutContents = NOTHING) -> DemonstratedAnswers:
    return demonstrated_answers(
        read_demonstrations(source, split="train"), system_prompt=system_prompt, held_out=held_out
    )


def test_demonstrated_answers_takes_every_turn_of_a_conversation(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be kind."},
        user("Hi"),
        assistant("Hello 👋"),
        user("Bye"),
        assistant("Ciao"),
    ]
    found = answers(write(tmp_path / "d.jsonl", {"messages": [*chat, user("More?")]}))
    assert [(row.messages, row.answer) for row in found.rows] == [(chat[:2], "Hello 👋"), (chat[:4], "Ciao")]
    assert found.left_out == {}


def test_demonstrated_answers_are_read_as_the_policy_reads_them(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Mine."}, user("Hi"), assistant("Yes")]
    source = write(tmp_path / "d.jsonl", {"messages": own}, {"messages": [user("Hi"), assistant("No")]})
    found = answers(source, system_prompt="Ours.")
    assert [row.messages[0]["content"] for row in found.rows] == ["Mine.", "Ours."]


def test_demonstrated_answers_to_one_prompt_share_it_and_repeats_count_once(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "completion": text} for text in ("Because.", "because  ", "Because. ", "No.")]
    found = answers(write(tmp_path / "d.jsonl", *rows, {"prompt": " why? ", "completion": "No."}))
    assert [row.answer for row in found.rows] == ["Because.", "because  ", "No."]
    assert len({row.prompt_id for row in found.rows}) == 1
    assert found.left_out == {REPEATED: 2}


def test_demonstrated_answers_leave_out_what_is_no_answer_by_reason(tmp_path: Path) -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    source = write(
        tmp_path / "d.jsonl",
        {"messages": [user("a"), assistant("")]},
        {"messages": [user("b")]},
        {"messages": [user("c"), assistant("", tool_calls=call)]},
        {"messages": [user("d"), assistant("one"), assistant("two")]},
    )
    found = answers(source)
    assert [row.answer for row in found.rows] == ["one"]
    assert found.left_out == {EMPTY_TURN: 1, NO_TURN: 1, CALLS_TOOLS: 1, NO_QUESTION: 1}


@pytest.mark.parametrize("system_prompt", ["", "Be brief."])
def test_demonstrated_answers_of_a_held_out_prompt_are_left_out_and_can_be_measured_on(
    tmp_path: Path, system_prompt: str
) -> None:
    led = [{"role": "system", "content": system_prompt}] if system_prompt else []
    held_out = HeldOutContents([[*led, user("Secret?")]], "content")
    later = [user("secret?"), assistant("Never."), user("And now?"), assistant("No.")]
    source = write(tmp_path / "d.jsonl", {"messages": later}, {"messages": [user("Open?"), assistant("Yes.")]})
    found = answers(source, system_prompt=system_prompt, held_out=held_out)
    assert [row.answer for row in found.rows] == ["Yes."]
    assert found.left_out == {HELD_OUT: 1}
    read = read_demonstrations(source, split="train")
    measured = answers_of_held_out(read, system_prompt=system_prompt, held_out=held_out)
    assert [row.answer for row in measured.rows] == ["Never.", "No."]
