"""OpenAI's form for preference fine-tuning: `input.messages`, `preferred_output` and `non_preferred_output`.

Source: the guide "Direct preference optimization" of OpenAI's API. Arguments of tool calls are JSON text there, and
`developer` is the newer name of the role `system`.
"""

import json
from typing import Any

from components.data.answers import read_answer
from components.data.forms.form import CHAT, Form, Reading, nested
from components.data.forms.rated import Choice
from components.data.messages import Message, Messages, without_tools
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

COLUMNS = ("input", "preferred_output", "non_preferred_output")


def _read(read: Rows, _: Choice) -> Reading:
    loaded = [_pair(row) for row in read.rows]
    earlier = tuple(row.place for row, pair in zip(read.rows, loaded, strict=True) if pair is None)
    return Reading([pair for pair in loaded if pair is not None], earlier)


def _pair(row: Row) -> SeedPair | None:
    given = nested(row, "input")
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        raise ValueError(f'{row.place}: input must be an object such as {{"messages": [...]}}')
    prompt = [_plain_role(message) for message in given["messages"]]
    (before, chosen), (other, rejected) = (
        read_answer(_output(row, name), prompt, f"{row.place} {name}") for name in COLUMNS[1:]
    )
    tools = given.get("tools") or None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise ValueError(f"{row.place}: input.tools must be a list of tool definitions (objects)")
    if before != other:
        return None
    messages = [{**before[0], "tools": tools}, *before[1:]] if tools else before
    return SeedPair(messages, chosen, rejected, None, None, None, row.place)


def _output(row: Row, column: str) -> Any:
    value = nested(row, column)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{row.place}: {column} must be a list with one message of the assistant")
    return value


def _plain_role(message: Any) -> Any:
    is_developer = isinstance(message, dict) and message.get("role") == "developer"
    return {**message, "role": "system"} if is_developer else message


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    plain, tools = without_tools(pair.messages)
    calls = [call for message in plain for call in message.get("tool_calls", [])]
    results = [message for message in plain if message["role"] == "tool"]
    if not all("id" in call for call in calls) or not all("tool_call_id" in result for result in results):
        raise ValueError("a tool call or a result without its id")
    given = {"messages": _with_text_arguments(plain), **({"tools": tools} if tools else {})}
    outputs = {
        name: [{"role": "assistant", "content": text}]
        for name, text in zip(COLUMNS[1:], (pair.chosen, pair.rejected), strict=True)
    }
    return [{"input": given, **outputs}]


def _with_text_arguments(messages: Messages) -> Messages:
    return [
        {**message, "tool_calls": [_call(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _call(call: Message) -> Message:
    function = call["function"]
    return {**call, "function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


OPENAI = Form(
    name="openai",
    title="OpenAI's preference fine-tuning: input.messages, preferred_output, non_preferred_output",
    holds=CHAT,
    columns=frozenset(COLUMNS),
    matches=lambda read: set(COLUMNS) <= set(read.columns),
    read=_read,
    write=_write,
    not_read="all of input but messages and tools, such as parallel_tool_calls",
)
