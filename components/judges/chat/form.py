"""Questions to a chat endpoint, the form of their answers, and the parsing of answers. Knows no network."""

import json
import re
from typing import Any, NamedTuple

from components.data.messages import Messages
from components.judges.chat.schema import closed, violations
from components.judges.chat.texts import OPENING, mended, parts_after_thoughts


class Question(NamedTuple):
    """A conversation that asks for an answer of a given form."""

    messages: Messages
    """The conversation; the client adds the form to the last message."""
    schema: dict[str, Any]
    """JSON schema that the answer's JSON object must satisfy; {} takes free text."""
    repeat: int = 0
    """1, 2, ...: ask the same question again, past the cached answer."""
    prompt: str = ""
    """The prompt that it is about: one prompt that fails is no outage. Empty: the question stands for itself."""


class Reply(NamedTuple):
    """A parsed answer."""

    value: dict[str, Any] | None
    """The checked JSON object, or {"text": ...} of a free text; None if there is no valid answer."""
    detail: str
    """Why there is no valid answer, else empty."""
    raw: str
    """The endpoint's last answer."""


FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
OBJECT = re.compile(r'\{(?=\s*["}])')
"""Where a JSON object begins."""
NO_OBJECT, OPEN_THOUGHT = "it holds no JSON object", "it holds a thought that does not end"


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
    described = {"name": "answer", "schema": closed(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def read_answer(text: str, schema: dict[str, Any], *, is_cut: bool = False) -> Reply:
    """Parse an answer and check it against the schema.

    A JSON object may stand alone, in a code fence, or within a sentence, but not within a thought, and not within an
    object that is not valid JSON: there it may be a quotation. In an answer that was cut it must stand alone, because
    the text around it may be a thought.

    Args:
        text: The endpoint's answer.
        schema: As in the question.
        is_cut: Whether the answer ended at a limit.
    """
    text = mended(text)
    parts = parts_after_thoughts(text)
    rest = parts[-1]
    alone = next((content for content in map(_parse_alone, parts) if content is not None), None) if schema else None
    if alone is not None:
        return _checked(alone, schema, text)
    if _is_thought(rest, schema, is_cut=is_cut):
        return Reply(None, OPEN_THOUGHT, text)
    if not rest:
        return Reply(None, "the answer is empty", text)
    if not schema:
        return Reply({"text": rest}, "", text)
    # A repair request quotes the detail, and its words are part of the key of that paid answer.
    try:
        objects = [] if is_cut else _objects(rest)
    except RecursionError:
        objects = []
    if len(objects) != 1:
        return Reply(None, NO_OBJECT if not objects else f"it holds {len(objects)} JSON objects", text)
    return _checked(objects[0], schema, text)


def _checked(content: dict[str, Any], schema: dict[str, Any], text: str) -> Reply:
    violation = next(violations(content, schema, "the answer"), None)
    return Reply(content, "", text) if violation is None else Reply(None, violation, text)


def _is_thought(text: str, schema: dict[str, Any], *, is_cut: bool) -> bool:
    """Return whether a thought that does not end stands in the place of the answer, which may mention such tags."""
    if is_cut:
        return OPENING.search(text) is not None
    return (OPENING.search(text.partition("{")[0]) if schema else OPENING.match(text)) is not None


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the distinct JSON objects of a text: those in code fences, else those anywhere."""
    fence = FENCED.search(text)
    if fence is not None and _embedded(text[: fence.start()]) is not None:
        objects = [content for content in map(_parse, FENCED.findall(text)) if content is not None]
        if objects:
            return _distinct(objects)
    return _distinct(_embedded(text) or [])


def _parse_alone(text: str) -> dict[str, Any] | None:
    """Return the JSON object that the whole text is, with or without a code fence."""
    fence = FENCED.fullmatch(text)
    return _parse(fence[1] if fence is not None else text)


def _parse(text: str) -> dict[str, Any] | None:
    try:
        content = DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _embedded(text: str) -> list[dict[str, Any]] | None:
    """Return the JSON objects within a text; None if one begins that is not valid, since others may be quoted in it."""
    objects: list[dict[str, Any]] = []
    start = OBJECT.search(text)
    while start is not None:
        try:
            content, end = DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return None
        objects.append(content)
        start = OBJECT.search(text, end)
    return objects


def _distinct(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(content, sort_keys=True): content for content in objects}.values())


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = {mended(name): _mended(value) for name, value in pairs}
    if len(content) != len(pairs):
        raise ValueError("a key is repeated")
    return content


def _mended(value: Any) -> Any:
    """Return a text, or a list of texts, without halves of surrogate pairs, and any other value as it is."""
    if isinstance(value, list):
        return [mended(item) if isinstance(item, str) else item for item in value]
    return mended(value) if isinstance(value, str) else value


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Not strict: models write line breaks within strings as they are.
DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_reject_constant, strict=False)
