"""Tools in published chat templates: a call is read with its arguments as they are, or the conversation is refused."""

from pathlib import Path
from typing import Any

import pytest
import trl
from jinja2 import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from components.data.messages import Messages
from components.models.tool_calls import render

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Look it up",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}},
        },
    }
]
ASKED = {"role": "user", "content": "Weather in Oslo?"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "-4 degrees", "tool_call_id": "abcdefghi", "name": "weather"}
AGAIN = {"role": "user", "content": "And in Rome?"}


def tokenizer(template: str) -> Any:
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    path = TEMPLATES / f"{template}.jinja"
    made.chat_template = path.read_text() if path.exists() else template
    return made


def rendered(template: str, messages: Messages) -> str:
    return render(tokenizer(template), messages, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("template", "call"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'),
        ("qwen3", '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'),
        ("qwen3_5_think", "<function=weather>\n<parameter=city>\nOslo\n</parameter>"),
        ("llama3_1", '{"name": "weather", "parameters": {"city": "Oslo"}}'),
        ("gptoss", 'functions.weather<|channel|>commentary json<|message|>{"city": "Oslo"}<|call|>'),
        ("glm4moe", "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>"),
    ],
)
def test_call_and_result_stand_in_the_prompt_once_and_not_twice_encoded(template: str, call: str) -> None:
    text = rendered(template, [{**ASKED, "tools": TOOLS}, CALLING, RESULT, AGAIN])
    assert text.count(call) == 1
    assert "-4 degrees" in text
    assert "Look it up" in text


def test_template_that_wants_arguments_as_text_and_no_content_gets_them() -> None:
    """DeepSeek-V3 adds the arguments to a text, and leaves a call out whose message has a content that is not none."""
    text = rendered("deepseekv3", [ASKED, CALLING, RESULT, AGAIN])
    assert '{"city": "Oslo"}' in text
    assert '\\"city' not in text
    assert "None" not in text


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEAF = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}")


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        (CHATML, [ASKED, CALLING, RESULT], "it leaves out the call of weather"),
        (CHATML, [{**ASKED, "tools": TOOLS}], "it leaves out the tools"),
        (DEAF, [ASKED, {**CALLING, "tool_calls": []}, RESULT, AGAIN], "it leaves out the result of a tool"),
        ("gemma3", [ASKED, CALLING, RESULT, AGAIN], "Conversation roles must alternate"),
        ("phi3", [ASKED, CALLING, RESULT, AGAIN], "it leaves out the"),
    ],
)
def test_template_that_leaves_tools_out_is_refused(template: str, messages: Messages, says: str) -> None:
    messages = [{key: value for key, value in each.items() if value != []} for each in messages]
    with pytest.raises(TemplateError, match=says) as caught:
        rendered(template, messages)
    assert "\n" not in str(caught.value)


def test_conversation_without_tools_is_rendered_as_ever() -> None:
    plain = tokenizer("qwen3")
    expected = plain.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    assert rendered("qwen3", [ASKED]) == expected


SECOND = {"id": "jklmnopqr", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
BOTH = {**CALLING, "tool_calls": [CALL, SECOND]}
RESULTS = [RESULT, {**RESULT, "content": "17 degrees", "tool_call_id": "jklmnopqr"}]


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "glm4moe"])
def test_every_call_of_a_message_and_every_result_is_rendered(template: str) -> None:
    text = rendered(template, [{**ASKED, "tools": TOOLS}, BOTH, *RESULTS])
    assert [text.count(piece) for piece in ("Rome", "-4 degrees", "17 degrees")] == [1, 1, 1]


FIRST_CALL_ONLY = (
    "{% for m in messages %}{{ m.role }} {{ m.content or '' }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments }}{% endif %}{% endfor %}"
)


def test_template_that_leaves_out_a_second_call_is_refused() -> None:
    with pytest.raises(TemplateError, match="leaves out the call of weather"):
        rendered(FIRST_CALL_ONLY, [ASKED, BOTH, *RESULTS])
    assert "Oslo" in rendered(FIRST_CALL_ONLY, [ASKED, CALLING, RESULT])


NEEDS_NAMES = (
    "{% for m in messages %}{{ m.content or '' }}{% if m.tool_calls %}{{ m.tool_calls }}{% endif %}"
    "{% if m.role == 'tool' %}{% if not m.name %}{{ raise_exception('no name') }}{% endif %}{{ m.name }}{% endif %}"
    "{% endfor %}"
)


def test_result_that_only_its_call_names_is_rendered_with_the_name_if_the_template_needs_it() -> None:
    nameless = {key: value for key, value in RESULT.items() if key != "name"}
    assert rendered(NEEDS_NAMES, [ASKED, CALLING, nameless]).endswith("-4 degreesweather")
    with pytest.raises(TemplateError, match="no name"):
        rendered(NEEDS_NAMES, [ASKED, CALLING, {**nameless, "tool_call_id": "unknown"}])
