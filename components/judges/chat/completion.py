"""Reads the body of a chat completion: the answer's text, or what stands in its place.

Knows no network.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from components.judges.chat.failures import AttemptFailed, Failure, QuestionRefused, excerpt, failure_of, one_line
from components.judges.chat.ledger import ChatAnswer, Tokens
from components.judges.chat.texts import mended

REFUSED, FILTERED = "refusal", "content_filter"
"""Ends of an answer that the model or a filter withheld."""
WITHHELD = re.compile(r"content_filter|(prohibited_content|safety|blocklist|recitation|spii)$", re.IGNORECASE)
"""Reasons of providers for a filtered answer; Gemini leaves out the message then."""
THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Fields of a message in which servers put a thought."""
ONLY_A_THOUGHT = "there is a thought, but no answer"


def read_completion(text: str) -> ChatAnswer:
    """Return the answer of a body that came with status 200.

    Raises:
        AttemptFailed: It is not a chat completion, or tells a failure that may pass.
        QuestionRefused: It tells a refusal.
        EndpointRefused: It tells that this user is refused.
    """
    content = _parsed(text)
    tokens = _tokens(content.get("usage"))
    choices: Any = content.get("choices")
    if not choices:
        error = content.get("error") or (content if content.get("object") == "error" else None)
        if error:
            raise _upstream(error, tokens)
        if choices == [] and tokens is not None:
            return ChatAnswer("", "", tokens, "the completion has no choice")
    try:
        choice = choices[0]
        finish = str(choice.get("finish_reason") or "")
        finish = FILTERED if WITHHELD.match(finish) else finish
        message = choice.get("message") or {} if finish == FILTERED else choice["message"]
        error = choice.get("error") or (content.get("error") if finish == "error" else None)
        answer = mended("".join(_texts(message.get("content"))))
    except (TypeError, LookupError, AttributeError):
        raise _no_completion(text, tokens) from None
    if error or finish == "error":
        raise _upstream(error or "finish_reason is error", tokens)
    if answer.strip():
        return ChatAnswer(answer, finish, tokens)
    return _without_text(message, finish, tokens)


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise _no_completion(text, None) from None
    if not isinstance(content, dict):
        raise _no_completion(text, None)
    return content


def _no_completion(text: str, tokens: Tokens | None) -> AttemptFailed:
    return AttemptFailed(
        f"sent something that is not a chat completion{excerpt(text)}", may_be_charged=True, tokens=tokens
    )


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content, which is a text, nothing, or a list of parts with thoughts among them."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield part
            elif part.get("type", "text") in ("text", "output_text"):
                yield part["text"]
    elif content is not None:
        raise TypeError(f"the content is a {type(content).__name__}")


def _without_text(message: dict[str, Any], finish: str, tokens: Tokens | None) -> ChatAnswer:
    """Return an answer without a text, with a remark on what stands in its place."""
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    refusals = [message.get("refusal"), *(part.get("refusal") for part in parts)]
    refusal = next((words for words in refusals if isinstance(words, str) and words.strip()), None)
    if refusal is not None:
        return ChatAnswer("", REFUSED, tokens, f"the model refused: {one_line(refusal)}")
    if finish == FILTERED:
        return ChatAnswer("", finish, tokens, "a content filter withheld it")
    if message.get("tool_calls") or message.get("function_call"):
        return ChatAnswer("", finish, tokens, "the model called a tool")
    if any(map(message.get, THOUGHTS)) or any(part.get("type") in ("thinking", "reasoning") for part in parts):
        return ChatAnswer("", finish, tokens, ONLY_A_THOUGHT)
    return ChatAnswer("", finish, tokens)


def _upstream(error: Any, tokens: Tokens | None) -> Failure:
    """Return the failure that an error within a body means: by its code as for a status, else one that may pass."""
    words = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    code = str(error.get("code")) if isinstance(error, dict) else ""
    status = int(code) if re.fullmatch("[45][0-9]{2}", code) else 0
    failure = failure_of(status, words) if status else AttemptFailed("")
    told = f"answered 200 with an error in the body{excerpt(words)}"
    if isinstance(failure, AttemptFailed):
        return AttemptFailed(told, may_be_charged=True, tokens=tokens)
    if isinstance(failure, QuestionRefused):
        return QuestionRefused(told, body=words, about_the_prompt=failure.about_the_prompt)
    return type(failure)(told, failure.remedy, may_be_the_prompt=failure.may_be_the_prompt)


def _tokens(usage: Any) -> Tokens | None:
    into, out = (
        (usage.get("prompt_tokens"), usage.get("completion_tokens")) if isinstance(usage, dict) else (None, None)
    )
    return Tokens(into, out) if type(into) is int and type(out) is int and into >= 0 and out >= 0 else None
