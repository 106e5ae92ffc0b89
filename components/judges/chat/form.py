"""Questions to a chat endpoint, the form of their answers, and the parsing of answers. Knows no network."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.data.messages import Messages


class Question(NamedTuple):
    """A conversation that asks for an answer of a given form."""

    messages: Messages
    """The conversation; the client adds the form to the last message."""
    schema: dict[str, Any]
    """JSON schema that the answer's JSON object must satisfy; {} takes free text."""
    repeat: int = 0
    """1, 2, ...: ask the same question again, past the cached answer."""


class Reply(NamedTuple):
    """A parsed answer."""

    value: dict[str, Any] | None
    """The checked JSON object, or {"text": ...} of a free text; None if there is no valid answer."""
    detail: str
    """Why there is no valid answer, else empty."""
    raw: str
    """The endpoint's last answer."""


FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
}


def messages_with_form(question: Question) -> Messages:
    """Return the question's messages, the last one with the JSON schema of the expected answer.

    Not every endpoint obeys a response format.
    """
    if not question.schema:
        return list(question.messages)
    form = f"Answer with one JSON object and nothing else. Its JSON schema: {json.dumps(question.schema)}"
    *before, last = question.messages
    return [*before, {**last, "content": f"{last['content']}\n\n{form}"}]


def repair_messages(messages: Messages, reply: Reply) -> Messages:
    """Return the conversation with the invalid answer and a message that says what is wrong with it."""
    complaint = (
        f"That answer cannot be used: {reply.detail}. "
        "Answer again, with the one JSON object that was asked for and nothing else."
    )
    return [*messages, {"role": "assistant", "content": reply.raw}, {"role": "user", "content": complaint}]


def response_format(schema: dict[str, Any], output: str) -> dict[str, Any]:
    """Return the request's fields that make the endpoint keep to the form."""
    if not schema or output == "text":
        return {}
    if output == "json_object":
        return {"response_format": {"type": "json_object"}}
    described = {"name": "answer", "schema": _closed(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def read_answer(text: str, schema: dict[str, Any]) -> Reply:
    """Parse an answer and check it against the schema.

    A JSON object may stand alone, in a code fence, or within a sentence.
    """
    content = THOUGHT.sub("", text).strip()
    if not content:
        return Reply(None, "the answer is empty", text)
    if not schema:
        return Reply({"text": content}, "", text)
    # A repair request quotes the detail, and its words are part of the key of that paid answer.
    objects = _objects(content)
    if len(objects) != 1:
        return Reply(None, "it holds no JSON object" if not objects else f"it holds {len(objects)} JSON objects", text)
    violation = next(_violations(objects[0], schema, "the answer"), None)
    return Reply(objects[0], "", text) if violation is None else Reply(None, violation, text)


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the distinct JSON objects of a text: the whole text, else those in code fences, else those anywhere."""
    for candidates in ([text], FENCED.findall(text)):
        objects = [content for content in map(_parse, candidates) if content is not None]
        if objects:
            return _distinct(objects)
    return _distinct(list(_embedded(text)))


def _parse(text: str) -> dict[str, Any] | None:
    try:
        content = DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _embedded(text: str) -> Iterator[dict[str, Any]]:
    start = text.find("{")
    while start >= 0:
        try:
            content, end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield content
        start = text.find("{", end)


def _distinct(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [content for index, content in enumerate(objects) if content not in objects[:index]]


def _reject_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is repeated")
    return content


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_reject_repeated_keys, parse_constant=_reject_constant)


def _violations(value: Any, schema: dict[str, Any], name: str) -> Iterator[str]:
    """Yield how a value breaks its schema: type, enum, bounds, required keys, and the same for the values in it."""
    expected = schema.get("type")
    if expected is not None and (
        not isinstance(value, TYPES[expected]) or (isinstance(value, bool) and expected != "boolean")
    ):
        yield f"{name} is no {expected}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{name} is {_short(value)}, and must be one of {json.dumps(schema['enum'])}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{name} is {value}, below {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        yield f"{name} is {value}, above {schema['maximum']}"
    if isinstance(value, dict):
        for key in schema.get("required", ()):
            if key not in value:
                yield f"the key {key} is missing"
        for key, part in schema.get("properties", {}).items():
            if key in value:
                yield from _violations(value[key], part, key)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _violations(item, schema["items"], f"an item of {name}")


def _short(value: Any) -> str:
    return json.dumps(value)[:80]


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with no other keys allowed, as endpoints that enforce a schema require."""
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {key: _closed(part) for key, part in schema["properties"].items()}
        closed["additionalProperties"] = False
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    return closed
