"""A verdict within a thought, or within a quotation, never counts."""

import json
import time
from typing import Any

import pytest

from components.judges.chat.form import read_answer
from components.judges.chat.ledger import ChatAnswer, Tokens
from components.judges.chat.replies import read_reply

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "verdict": {"type": "string", "enum": ["A", "B"]}},
    "required": ["verdict"],
}
A, B = '{"verdict": "A"}', '{"verdict": "B"}'
MENTIONS = {"reason": "B writes <think> and </think>", "verdict": "A"}


@pytest.mark.parametrize(
    "text",
    [
        f"<think>Perhaps {B}? No.</think>{A}",
        f"Perhaps {B}? No.\n</think>\n\n{A}",
        f"Let me see. <think>Perhaps {B}?</think> {A}",
        f"<think>{B}</think><think>Still {B}?</think>```json\n{A}\n```",
        f"<thinking>{B}</thinking>\n{A}",
        f"<Think>{B}</Think>\n{A}",
        f"[THINK]{B}[/THINK]{A}",
        f"◁think▷{B}◁/think▷{A}",
        f"<seed:think>{B}</seed:think>{A}",
        f"<|channel|>analysis<|message|>{B}<|end|><|start|>assistant<|channel|>final<|message|>{A}<|return|>",
        f'<think>It writes "</think>{B}" to sway me.</think>{A}',
    ],
)
def test_answer_behind_a_thought_is_the_verdict(text: str) -> None:
    assert read_answer(text, SCHEMA).value == {"verdict": "A"}


@pytest.mark.parametrize("before", ["", "<think>Well.</think>", "Well.</think>\n"])
@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```"])
def test_answer_that_mentions_tags_of_thoughts_is_read_whole(before: str, fence: str) -> None:
    assert read_answer(before + fence.replace("{}", json.dumps(MENTIONS)), SCHEMA).value == MENTIONS


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (f"<think>Perhaps {B}? No, because", "it holds a thought that does not end"),
        (f"Well. <think>Perhaps {B}? No, because", "it holds a thought that does not end"),
        (f"<think>One.</think><think>Perhaps {B}? No", "it holds a thought that does not end"),
        (f"<|channel|>analysis<|message|>Perhaps {B}? No", "it holds a thought that does not end"),
        (f"Perhaps {B}? No.</think>", "the answer is empty"),
        (f"{A} <think>or</think> {B} </think> hm", "it holds no JSON object"),
    ],
)
@pytest.mark.parametrize("is_cut", [False, True])
def test_answer_within_a_thought_is_none(text: str, detail: str, is_cut: bool) -> None:
    assert read_answer(text, SCHEMA, is_cut=is_cut) == (None, detail, text)


@pytest.mark.parametrize(
    "text",
    [f"Perhaps {B}? No, because", f"{B} was my first thought, but", f"```\n{B}\n``` But wait", f"Hm.</think>{B}. Or"],
)
def test_answer_that_was_cut_counts_only_if_it_stands_alone(text: str) -> None:
    """A template that opens the thought leaves no tag in an answer that was cut within it."""
    assert read_answer(text, SCHEMA, is_cut=True).value is None


@pytest.mark.parametrize("text", [A, f"```json\n{A}\n```", f"<think>Perhaps {B}?</think>\n{A}\n"])
def test_answer_that_ends_at_the_limit_but_is_whole_counts(text: str) -> None:
    assert read_answer(text, SCHEMA, is_cut=True).value == {"verdict": "A"}


@pytest.mark.parametrize("text", ["<think>hm, A is", "Well.</think><think>hm"])
def test_free_text_that_is_a_thought_is_none(text: str) -> None:
    assert read_answer(text, {}).value is None


@pytest.mark.parametrize("text", ["A shows its <think> tag.", "hm</think>A shows its <think> tag."])
def test_free_text_may_mention_the_tag(text: str) -> None:
    assert read_answer(text, {}).value == {"text": "A shows its <think> tag."}
    assert read_answer(text, {}, is_cut=True).value is None


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "it says {"verdict": "B"} itself", "verdict": "A"}',
        '{"reason": "it says\n```\n{"verdict": "B"}\n```\n itself", "verdict": "A"}',
        '{"verdict": "B"} or rather {"verdict": "A',
    ],
)
def test_verdict_within_an_object_that_is_not_valid_is_a_quotation(text: str) -> None:
    assert read_answer(text, SCHEMA) == (None, "it holds no JSON object", text)


@pytest.mark.parametrize("space", ["\n", "\t", "\u2028", "\x85", "\x0c"])
def test_line_breaks_within_a_string_are_read_as_they_are(space: str) -> None:
    value = {"reason": f"first{space}second", "verdict": "A"}
    assert read_answer(f'{{"reason": "first{space}second", "verdict": "A"}}', SCHEMA).value == value


def test_half_a_surrogate_pair_becomes_a_replacement_character_and_a_whole_one_stays() -> None:
    text = r'{"reason": "half \ud83d, whole \ud83d\ude00, \ude00\ud83d", "verdict": "A"}'
    reply = read_answer(text, SCHEMA)
    assert reply.value == {"reason": "half \ufffd, whole \U0001f600, \ufffd\ufffd", "verdict": "A"}
    assert read_answer("half \ud83d, whole \U0001f600", {}).value == {"text": "half \ufffd, whole \U0001f600"}
    assert read_answer("\ud83d", SCHEMA).raw == "\ufffd"


@pytest.mark.parametrize("depth", [500, 900, 5_000, 200_000])
def test_deep_objects_are_read_or_told_in_time(depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    assert read_answer(deep, SCHEMA).value is None
    nested = f'{{"verdict": "A", "a": {"[" * depth + "]" * depth}}}'
    assert read_answer(nested, SCHEMA).value is None or depth < 1_000
    assert read_answer(f"{nested} and {nested}", SCHEMA).value is None or depth < 1_000


@pytest.mark.parametrize(
    "text",
    [
        "<think>x</think>" * 60_000,
        "".join(f'{{"a": {number}}}' for number in range(60_000)),
        '{"a": ' * 100_000,
        "```\n{" * 100_000,
        "{" + " " * 500_000,
    ],
    ids=["tags", "objects", "openings", "fences", "spaces"],
)
def test_long_answers_without_a_verdict_are_told_in_time(text: str) -> None:
    began = time.process_time()
    assert read_answer(text, SCHEMA).value is None
    assert time.process_time() - began < 5, "the time grows with the square of the length"


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_thought_that_was_cut_says_so_with_the_remedy_and_asks_for_no_repair(finish: str) -> None:
    given = read_reply(ChatAnswer(f"<think>Perhaps {B}? No, because", finish, None), SCHEMA, max_tokens=9)
    assert given.reply.value is None
    assert given.reply.detail == (
        "its thought was cut at endpoint.max_tokens = 9, before an answer: raise endpoint.max_tokens"
    )
    assert not given.may_be_repaired
    assert not given.is_answer


def test_answer_without_a_reason_for_its_end_was_cut_if_it_is_as_long_as_the_limit() -> None:
    text = f"Perhaps {B}? No, because"
    long, short = (read_reply(ChatAnswer(text, "", Tokens(5, count)), SCHEMA, max_tokens=9) for count in (9, 8))
    assert long.reply.detail == "it holds no JSON object, and was cut at endpoint.max_tokens = 9"
    assert short.reply.value == {"verdict": "B"}
