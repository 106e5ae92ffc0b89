"""Conversations with tools in a model's chat template.

Templates disagree on the form of a call: some take its arguments as an object and others as JSON text, and some leave a
call out whose message has an empty content. So the first form is taken in which nothing is left out.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from components.data.messages import Message, Messages, called_name, without_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, *, add_generation_prompt: bool, **arguments: Any
) -> str:
    """Render a conversation in the model's chat template, with its tools, tool calls and results.

    Args:
        tokenizer: The model's tokenizer.
        messages: The conversation; tools that it names come before those of `arguments`.
        add_generation_prompt: Whether to end with what the template writes in front of an answer.
        **arguments: Further arguments of `apply_chat_template`.

    Raises:
        TemplateError: The template (jinja2) refuses the conversation, or leaves out something that concerns tools.
    """
    plain, own_tools = without_tools(messages)
    shared_tools = arguments.pop("tools", None)
    tools = own_tools or shared_tools
    write = partial(
        tokenizer.apply_chat_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **arguments,
    )
    if not own_tools and not any("tool_calls" in message or message["role"] == "tool" for message in plain):
        text: str = write(plain, tools=tools)
        return text
    cause = ""
    for form in _forms(plain):
        try:
            written: str = write(form, tools=tools)
            missing = _left_out(write, form, tools, written)
        except (TemplateError, TypeError) as error:
            cause = cause or " ".join(str(error).split())
            continue
        if missing is None:
            return written
        cause = f"it leaves out {missing}"
    raise TemplateError(
        f"the chat template does not render the conversation's tools ({cause}): use a model whose template does, "
        "or remove the row"
    )


def _forms(messages: Messages) -> Iterator[Messages]:
    named = [_with_name(messages, message) for message in messages]
    for form in (messages,) if named == messages else (messages, named):
        yield form
        yield [_without_content(message) for message in form]
        as_text = [_with_text_arguments(message) for message in form]
        yield as_text
        yield [_without_content(message) for message in as_text]


def _with_name(messages: Messages, message: Message) -> Message:
    """Return a tool's result with the name of the tool, which some templates need, if only the call's id says it."""
    name = called_name(messages, message) if message["role"] == "tool" else None
    return {**message, "name": name} if name else message


def _without_content(message: Message) -> Message:
    return {**message, "content": None} if "tool_calls" in message and not message["content"] else message


def _with_text_arguments(message: Message) -> Message:
    if "tool_calls" not in message:
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    texts = [{**each, "arguments": json.dumps(each["arguments"], ensure_ascii=False)} for each in functions]
    calls = [{**call, "function": text} for call, text in zip(message["tool_calls"], texts, strict=True)]
    return {**message, "tool_calls": calls}


def _left_out(write: Any, messages: Messages, tools: Any, text: str) -> str | None:
    """Return what the text does not depend on: `tools`, a tool call or a result; None if it depends on all of them."""
    without: list[tuple[str, Messages, Any]] = [("the tools", messages, None)] if tools else []
    for place, message in enumerate(messages):
        others = (messages[:place], messages[place + 1 :])
        calls = message.get("tool_calls", [])
        for number, call in enumerate(calls):
            changed: Message = {**message, "tool_calls": [*calls[:number], *calls[number + 1 :]]}
            if len(calls) == 1:
                del changed["tool_calls"]
            without.append((f"the call of {call['function']['name']}", [*others[0], changed, *others[1]], tools))
        if message["role"] == "tool" and message["content"].strip():
            changed = {**message, "content": ""}
            without.append(("the result of a tool", [*others[0], changed, *others[1]], tools))
    for name, conversation, definitions in without:
        try:
            if write(conversation, tools=definitions) == text:
                return name
        except (TemplateError, TypeError):  # the template insists on it, so it reads it
            continue
    return None
