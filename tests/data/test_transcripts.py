"""Transcripts are split into turns, and two with the same turns before their answers are read as each alone is."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.answers import read_answer
from components.data.transcripts import is_transcript, parse_answers, parse_transcript

PIECES = st.sampled_from(
    ["\n\nHuman:", "\n\nAssistant:", "Human:", "Assistant:", "\n", " ", "a", "é b", "\n\n", "\u2028", "[{'role': 'x'}]"]
)
TEXTS = st.lists(PIECES, max_size=9).map("".join)


def by_pattern(text: str) -> list[dict[str, str]]:
    """Split a transcript by one pattern, turn by turn."""
    _, *parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text.lstrip())
    messages: list[dict[str, str]] = []
    for speaker, turn in zip(parts[::2], parts[1::2], strict=True):
        role = {"Human": "user", "Assistant": "assistant"}[speaker]
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{turn.strip()}".strip()
        else:
            messages.append({"role": role, "content": turn.strip()})
    return messages


@settings(max_examples=400)
@given(TEXTS)
def test_turns_are_those_of_a_pattern(text: str) -> None:
    text = f"\n\nHuman:{text}\n\nAssistant: x"
    assert is_transcript(text)
    assert parse_transcript(text, "row") == by_pattern(text)


@settings(max_examples=400)
@given(TEXTS, TEXTS, TEXTS)
def test_two_transcripts_together_are_read_as_each_alone(before: str, chosen: str, rejected: str) -> None:
    texts = [f"\n\nHuman: {before}\n\nAssistant:{answer}" for answer in (chosen, rejected)]
    together = parse_answers(*texts)
    if together is None:
        return
    alone: list[tuple[Any, str]] = [read_answer(text, None, "row") for text in texts]
    assert together == (alone[0][0], alone[0][1], alone[1][1])
    assert alone[0][0] == alone[1][0]


@pytest.mark.parametrize(
    ("chosen", "rejected", "read"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c", True),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: z\n\nAssistant: c", False),
        ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: d", "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", False),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: d", "\n\nHuman: a\n\nAssistant: c", False),
        ("a\n\nAssistant: b", "a\n\nAssistant: c", False),
        ("a", "b", False),
    ],
)
def test_two_transcripts_are_read_together_only_if_they_share_the_prompt(
    chosen: str, rejected: str, read: bool
) -> None:
    assert (parse_answers(chosen, rejected) is not None) == read
