"""A question to a chat endpoint, the form of its answer, and how an answer is read and checked. Knows no network."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from components.data.messages import Messages


class Question(NamedTuple):
    """A conversation that calls for an answer of a given form."""

    messages: Messages
    """What is asked; the form is added to the last message by the client."""
    schema: dict[str, Any]
    """JSON schema that the answer's JSON object must satisfy; {} takes free text."""
    repeat: int = 0
    """1, 2, ...: asks the same question again, past the cached answer."""


class Reply(NamedTuple):
    """An answer that was read."""

    value: dict[str, Any] | None
    """The checked JSON object, or {"text": ...} of a free text; None when there is no valid answer."""
    detail: str
    """Why there is none, else empty."""
    raw: str
    """What the endpoint said last."""


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
    """The question's messages, where the last one says which JSON object is expected.

    Not every endpoint obeys a response format.
    """
    if not question.schema:
        return list(question.messages)
    form = f"Answer with one JSON object and nothing else. Its JSON schema: {json.dumps(question.schema)}"
    *before, last = question.messages
    return [*before, {**last, "content": f"{last['content']}\n\n{form}"}]


def repair_messages(messages: Messages, reply: Reply) -> Messages:
    """The same conversation with the answer that was no good, and what is wrong with it."""
    complaint = f"That answer cannot be used: {reply.detail}. Answer again, with the one JSON object that was asked for and nothing else."
    return [*messages, {"role": "assistant", "content": reply.raw}, {"role": "user", "content": complaint}]


def response_format(schema: dict[str, Any], output: str) -> dict[str, Any]:
    """The request's fields that hold the endpoint to the form."""
    if not schema or output == "text":
        return {}
    if output == "json_object":
        return {"response_format": {"type": "json_object"}}
    described = {"name": "answer", "schema": _closed(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def read_answer(text: str, schema: dict[str, Any]) -> Reply:
    """Reads an answer, and checks it against the schema.

    A JSON object may stand alone, in a code fence, or within a sentence.
    """
    said = THOUGHT.sub("", text).strip()
    if not said:
        return Reply(None, "the answer is empty", text)
    if not schema:
        return Reply({"text": said}, "", text)
    found = _objects(said)
    if len(found) != 1:
        return Reply(None, "it holds no JSON object" if not found else f"it holds {len(found)} JSON objects", text)
    wrong = next(_violations(found[0], schema, "the answer"), None)
    return Reply(found[0], "", text) if wrong is None else Reply(None, wrong, text)


def _objects(said: str) -> list[dict[str, Any]]:
    """The distinct JSON objects of a text.

    The whole of it, else those in code fences, else those that stand anywhere.
    """
    for texts in ([said], FENCED.findall(said)):
        parsed = [found for found in map(_parsed, texts) if found is not None]
        if parsed:
            return _distinct(parsed)
    return _distinct(list(_embedded(said)))


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        content = DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _embedded(said: str) -> Iterator[dict[str, Any]]:
    place = said.find("{")
    while place >= 0:
        try:
            content, end = DECODER.raw_decode(said, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            yield content
        place = said.find("{", end)


def _distinct(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [content for index, content in enumerate(found) if content not in found[:index]]


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands twice")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_refuse)


def _violations(value: Any, schema: dict[str, Any], name: str) -> Iterator[str]:
    """What of a value breaks its schema: type, enum, bounds, required keys, and the same of what it holds."""
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
    """The schema with no further keys allowed: endpoints that enforce one ask for that."""
    closed = dict(schema)
    if "properties" in schema:
        closed["properties"] = {key: _closed(part) for key, part in schema["properties"].items()}
        closed["additionalProperties"] = False
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    return closed
