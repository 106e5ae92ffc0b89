"""The parsing of a chat model's answers: texts that count as the requested JSON object, and texts that do not."""

from typing import Any

import pytest

from components.judges.chat.form import Question, messages_with_form, read_answer

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["A", "B"]},
        "score": {"type": "number", "minimum": 0, "maximum": 10},
        "points": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["verdict"],
}


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict": "A"}',
        '\n {"verdict": "A"}\n',
        '```json\n{"verdict": "A"}\n```',
        'Here it is:\n```\n{"verdict": "A"}\n```\nThat is all.',
        'My verdict is {"verdict": "A"}.',
        '<think>Perhaps {"verdict": "B"}?</think>{"verdict": "A"}',
        '{"verdict": "A"} {"verdict": "A"}',
    ],
)
def test_answer_one_object_is_found_wherever_it_stands(text: str) -> None:
    assert read_answer(text, SCHEMA) == ({"verdict": "A"}, "", text)


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "the answer is empty"),
        ("  \n", "the answer is empty"),
        ("<think>hm</think>", "the answer is empty"),
        ("A", "it holds no JSON object"),
        ('["A"]', "it holds no JSON object"),
        ('{"verdict": "A"', "it holds no JSON object"),
        ('{"verdict": "A", "verdict": "B"}', "it holds no JSON object"),
        ('{"verdict": "A", "score": NaN}', "it holds no JSON object"),
        ('{"verdict": "A"} or {"verdict": "B"}', "it holds 2 JSON objects"),
        ("{" * 5000, "it holds no JSON object"),
        ("{}", "the key verdict is missing"),
        ('{"verdict": null}', "verdict is no string"),
        ('{"verdict": "tie"}', 'verdict is "tie", and must be one of ["A", "B"]'),
        ('{"verdict": "a"}', 'verdict is "a", and must be one of ["A", "B"]'),
        ('{"verdict": "A", "score": "9"}', "score is no number"),
        ('{"verdict": "A", "score": true}', "score is no number"),
        ('{"verdict": "A", "score": 11}', "score is 11, above 10"),
        ('{"verdict": "A", "score": -1}', "score is -1, below 0"),
        ('{"verdict": "A", "points": ["x", 2]}', "an item of points is no string"),
    ],
)
def test_answer_that_breaks_the_form_says_how(text: str, detail: str) -> None:
    assert read_answer(text, SCHEMA) == (None, detail, text)


def test_answer_free_text_is_taken_without_its_thoughts() -> None:
    assert read_answer("<think>hm</think>\n It is \n fine. ", {}).value == {"text": "It is \n fine."}


def test_form_is_added_to_the_last_message_only_where_one_is_wanted() -> None:
    messages = [{"role": "system", "content": "judge"}, {"role": "user", "content": "which?"}]
    assert messages_with_form(Question(messages, {})) == messages
    first, last = messages_with_form(Question(messages, SCHEMA))
    assert first == messages[0]
    assert last["content"].startswith("which?\n\nAnswer with one JSON object")
    assert messages[1]["content"] == "which?"
