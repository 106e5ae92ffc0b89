"""Reads an answer of a preference data set, with the prompt in front of it. Knows no pair."""

from typing import Any

from components.data.conversations import chat_messages, encoded_messages, read_messages
from components.data.messages import Messages
from components.data.transcripts import is_transcript, parse_transcript

THOUGHTS = ("reasoning_content", "thinking", "thought")
"""Keys of an assistant's message that hold a thought apart from the answer."""


def read_answer(value: Any, prompt: Any, place: str) -> tuple[Messages, str]:
    """Read an answer and the conversation that it ends.

    Args:
        value: The answer's cell: its text, or a conversation that ends with it, in a form of `conversations`.
        prompt: The cell of the column prompt; None without one.
        place: Name of row and column, for errors.

    Returns:
        The messages before the answer, and the answer's text.

    Raises:
        ValueError: There is no prompt, it does not agree with the conversation, or the answer is more than text.
    """
    own_prompt = None if prompt is None else read_messages(prompt, f"{place}'s prompt")
    must_agree = prompt is None or (isinstance(prompt, str) and is_transcript(prompt))
    turns = _turns(value, own_prompt, place, must_agree=must_agree)
    if turns is None:
        return own_prompt or [], value
    if not turns or turns[-1]["role"] != "assistant":
        raise ValueError(f"{place}: the last message is not the assistant's: end with the answer")
    *before, answer = turns
    if "tool_calls" in answer:
        raise ValueError(
            f"{place}: the answer has tool_calls, but only text can be trained on: leave the row out, or write the "
            "calls into the content as the model's chat template does"
        )
    return _joined(own_prompt, before, place), answer["content"]


def _turns(value: Any, own_prompt: Messages | None, place: str, *, must_agree: bool) -> Messages | None:
    """Return the messages of an answer's cell, which may be one message; None if it is the answer's text.

    A transcript that does not continue the prompt is an answer that quotes a dialogue, unless they `must_agree`.
    """
    if isinstance(value, str):
        items = encoded_messages(value, place)
        if items is None and own_prompt is not None and not is_transcript(value):
            return None
        if items is None:
            turns = parse_transcript(value, place)
            return turns if must_agree or _continues(turns[:-1], own_prompt or []) else None
    else:
        items = [value] if isinstance(value, dict) else value
    turns = chat_messages(items, place)
    thoughts = [key for key in THOUGHTS if turns and items[-1].get(key)]
    if thoughts:
        raise ValueError(f"{place}: the answer has {thoughts[0]}, which would be left out: write it into the content")
    return turns


def _continues(before: Messages, own_prompt: Messages) -> bool:
    """Return whether the messages before an answer begin or end with the prompt."""
    theirs, ours = _stripped(before), _stripped(own_prompt)
    return bool(ours) and ours in (theirs[: len(ours)], theirs[-len(ours) :])


def _joined(own_prompt: Messages | None, before: Messages, place: str) -> Messages:
    """Return the prompt from its column or from the messages before the answer; if there are both, they must agree."""
    if not before or not own_prompt:
        prompt = before or own_prompt
        if not prompt:
            raise ValueError(f"{place}: there is no prompt: add a column prompt, or the messages before the answer")
        return prompt
    if before == own_prompt:
        return before
    ours, theirs = _stripped(own_prompt), _stripped(before)
    if len(ours) <= len(theirs) and theirs[-len(ours) :] == ours:
        return before
    if theirs == ours[-len(theirs) :]:
        return own_prompt
    raise ValueError(
        f"{place}: the messages before the answer differ from the column prompt: make them agree, or remove the column"
    )


def _stripped(messages: Messages) -> list[tuple[str, str, Any]]:
    return [(message["role"], message["content"].strip(), message.get("tool_calls")) for message in messages]
