"""Reading a prompt's cell and its row's context: all that people write gives the same messages, or is refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.conversations import conversation
from components.data.messages import Messages, format_messages, message_text, parse_messages
from components.data.prompts import content_key, load_prompts, make_prompt

USER = {"role": "user", "content": "Weather in Oslo?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "-4", "tool_call_id": "c1", "name": "weather"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def load(tmp_path: Path, *rows: dict[str, Any]) -> list[Messages]:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [prompt.messages for prompt in load_prompts(str(path), column="prompt", split="train")]


@pytest.mark.parametrize(
    "cell",
    [
        "Weather in Oslo?",
        [USER],
        json.dumps([USER]),
        f" {json.dumps([USER], indent=1)}\n",
        [{"from": "human", "value": "Weather in Oslo?"}],
        json.dumps([{"from": "human", "value": "Weather in Oslo?"}]),
        "\n\nHuman: Weather in Oslo?\n\nAssistant:",
        "Human: Weather in Oslo?\n\nAssistant: ",
    ],
)
def test_prompt_of_every_form_is_the_same(cell: Any) -> None:
    assert conversation(cell, "row") == [USER]


@pytest.mark.parametrize("text", ["[1, 2]", "[x]", "[]", '[{"a": 1}]', '{"role": "user", "content": "x"}', "[" * 99999])
def test_prompt_that_only_looks_like_messages_stays_text(text: str) -> None:
    assert conversation(text, "row") == [{"role": "user", "content": text}]


def test_transcript_of_several_turns_is_read_up_to_the_open_answer() -> None:
    assert conversation("\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Help.\n\nAssistant:", "row") == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Help."},
    ]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("[{'role': 'user', 'content': 'x'}]", "row: the text holds chat messages in Python's form"),
        ('[{"role": "human", "content": "x"}]', "row: message 1 has role 'human': use one of"),
        ([{"from": "narrator", "value": "x"}], "row: message 1 has role 'narrator': use one of"),
        (
            [{"role": "user", "content": [{"type": "image"}]}],
            "row: message 1 has a part of type 'image', but only text",
        ),
        ([{"role": "user", "content": None}], "row: message 1 is not of the form"),
        ("\n\nHuman: Hi\n\nAssistant: Yes?", "row: the prompt ends with a message of the assistant"),
        ([USER, CALLING], "row: the prompt ends with a message of the assistant"),
        ([{**USER, "tool_calls": [CALL]}], "row: message 1 has tool_calls, which must be a list in a message of the"),
        ([{**CALLING, "tool_calls": [{"x": 1}]}], "row: message 1 has a tool call that is not of the form"),
        (
            [{**CALLING, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}],
            "row: message 1 has a tool call whose arguments are not valid JSON",
        ),
        (
            [{"role": "assistant", "content": "", "function_call": {"name": "f"}}],
            "row: message 1 has a function_call: write it as tool_calls",
        ),
    ],
)
def test_prompt_that_cannot_be_read_right_is_refused(cell: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        conversation(cell, "row")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"id": "c1", "name": "weather", "arguments": {"city": "Oslo"}},
    ],
)
def test_tool_calls_of_every_form_are_kept_and_named_by_their_content(call: Any) -> None:
    given = {"role": "assistant", "content": None, "tool_calls": [call]}
    messages = conversation([USER, given, {**RESULT, "more": 1}], "row")
    assert messages == [USER, CALLING, RESULT]
    assert parse_messages(format_messages(messages)) == messages
    others = [
        [USER, {"role": "assistant", "content": ""}, RESULT],
        [USER, {**CALLING, "tool_calls": [{**CALL, "function": {"name": "other", "arguments": {}}}]}, RESULT],
    ]
    for other in others:
        assert make_prompt(other).prompt_id != make_prompt(messages).prompt_id
        assert content_key(other) != content_key(messages)
    renamed = [USER, {**CALLING, "tool_calls": [{**CALL, "id": "z"}]}, {**RESULT, "tool_call_id": "z"}]
    assert content_key(renamed) == content_key(messages)


def test_tool_calls_of_parquet_lose_the_nulls_of_other_rows(tmp_path: Path) -> None:
    """Arrow gives every struct the keys of all rows: a call would be rendered with arguments that it never had."""
    clock = {"function": {"name": "time", "arguments": {"zone": "CET"}}}
    rows = [{"prompt": [USER, {**CALLING, "tool_calls": [call]}, RESULT]} for call in (CALL, clock)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    first, second = load_prompts(str(tmp_path / "p.parquet"), column="prompt", split="train")
    assert first.messages == [USER, CALLING, RESULT]
    assert second.messages[1]["tool_calls"][0]["function"] == {"name": "time", "arguments": {"zone": "CET"}}


def test_system_column_is_the_system_message(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        {"prompt": "Hi", "system": "Be brief."},
        {"prompt": [system, {"role": "user", "content": "Hi"}], "system": "Be brief. "},
        {"prompt": [system, {"role": "user", "content": "Hi"}], "system": ""},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "system": "Be brief."},
    ]
    assert load(tmp_path, *rows) == [[system, {"role": "user", "content": "Hi"}]] * 4
    assert load(tmp_path, {"prompt": "Hi", "system": None}) == [[{"role": "user", "content": "Hi"}]]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_column_belongs_to_the_prompt(tools: Any, tmp_path: Path) -> None:
    (messages,) = load(tmp_path, {"prompt": [USER], "tools": tools})
    assert messages == [{**USER, "tools": TOOLS}]
    assert make_prompt(messages).prompt_id != make_prompt([USER]).prompt_id
    assert load(tmp_path, {"prompt": [USER], "tools": "[]"}) == [[USER]]


def test_tools_of_the_first_message_stay_in_front_as_our_own_tables_hold_them(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    own = [{**USER, "tools": TOOLS}]
    rows = [{"prompt": own}, {"prompt": json.dumps(own)}, {"prompt": own, "tools": TOOLS}]
    assert load(tmp_path, *rows) == [own] * 3
    assert load(tmp_path, {"prompt": own, "system": "Be kind."}) == [[{**system, "tools": TOOLS}, USER]]


def test_sharegpt_calls_and_results_are_those_of_chat_messages(tmp_path: Path) -> None:
    sent = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]'},
        {"from": "observation", "value": "2"},
        {"from": "chatgpt", "value": "Two."},
        {"from": "user", "value": "Thanks"},
    ]
    (messages,) = load(tmp_path, {"prompt": sent})
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]
    assert messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Thanks"},
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": [{**USER, "tools": "weather"}]}, "line 1: message 1: tools must be a list of tool definitions"),
        (
            {"prompt": [{**USER, "tools": TOOLS}], "tools": [{"name": "other"}]},
            "line 1: the column tools differs from the tools of the prompt's first message",
        ),
        ({"prompt": [{"from": "function_call", "value": "f("}]}, "line 1: message 1 has a function_call that is not"),
        ({"system": 3}, "line 1: system is 3, but must be text"),
        (
            {"system": "Be kind.", "prompt": [{"role": "system", "content": "Be brief."}, USER]},
            "line 1: the column sys",
        ),
        ({"tools": "{x"}, "line 1: tools is not valid JSON"),
        ({"tools": ["weather"]}, "line 1: tools must be a list of tool definitions"),
    ],
)
def test_context_that_cannot_be_read_is_refused_by_its_row(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        load(tmp_path, {"prompt": "Hi", **row})


def test_columns_that_matter_and_are_not_read_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"prompt": "Hi", "context": "c", "images": [], "id": 3, "system": "s", "tools": TOOLS}
    with caplog.at_level(logging.WARNING):
        load(tmp_path, row, row)
        load(tmp_path, row)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path / 'prompts.jsonl'}: ignoring the columns context, images:")


def test_prompts_that_a_template_has_written_already_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = {"prompt": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"}
    with caplog.at_level(logging.WARNING):
        load(tmp_path, {"prompt": "What does <|im_start|> mean?"}, written, written)
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"2 prompts begin as if a chat template had written them ({tmp_path / 'prompts.jsonl'} line 2)" in line


def test_message_text_shows_calls_and_tools_and_is_the_content_without_them() -> None:
    assert message_text(USER) == "Weather in Oslo?"
    assert message_text(CALLING) == f"[tool calls]\n{json.dumps([CALL])}"
    assert message_text({**USER, "tools": TOOLS}) == f"Weather in Oslo?\n\n[available tools]\n{json.dumps(TOOLS)}"


def test_content_in_parts_of_text_is_their_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Oslo?"}]
    (messages,) = load(tmp_path, {"prompt": [{**USER, "content": parts}, CALLING, {**RESULT, "content": parts[:1]}]})
    assert [message["content"] for message in messages] == ["Weather in Oslo?", "", "Weather "]
    with pytest.raises(ValueError, match="line 1: message 1 has a part of type 'image_url', but only text can be read"):
        load(tmp_path, {"prompt": [{**USER, "content": [{"type": "image_url", "image_url": "x"}]}]})
