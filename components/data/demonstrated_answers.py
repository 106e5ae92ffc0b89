"""Demonstrations as prompts with the answers that a policy shall learn to give. Knows no model and no stage."""

from collections import Counter
from typing import NamedTuple

from components.data.content import HeldOutContents, content_key
from components.data.conversations import ASKING
from components.data.demonstrations import HELD_OUT, Demonstrations
from components.data.messages import Messages, with_system
from components.data.prompts import prompt_id

REPEATED = "it repeats an earlier demonstration"
NO_QUESTION = "no message of a user or tool stands before the assistant's turn"
EMPTY = "the assistant's turn is empty"
CALLS_TOOLS = "the assistant's turn calls a tool"


class DemonstratedAnswer(NamedTuple):
    """One turn of an assistant in a demonstration, and all that stands before it."""

    place: str
    """Row of the source, for messages."""
    prompt_id: str
    messages: Messages
    """The prompt as the policy reads it."""
    answer: str


class DemonstratedAnswers(NamedTuple):
    """The turns of one source, in its order."""

    rows: list[DemonstratedAnswer]
    left_out: dict[str, int]
    """Number of conversations, or of turns, that are left out, by reason."""
    digest: str
    """sha256 over the conversations of the source."""


def demonstrated_answers(read: Demonstrations, *, system_prompt: str, held_out: HeldOutContents) -> DemonstratedAnswers:
    """Return every turn of the assistant as a demonstration of its own.

    A conversation with a turn that answers a held-out prompt is left out as a whole, as `ratchet sft` does. Prompts
    with the same content are one prompt; the same answer to it counts once.

    Args:
        read: The demonstrations.
        system_prompt: `policy.system_prompt`.
        held_out: The held-out prompts as the policy reads them.
    """
    rows: list[DemonstratedAnswer] = []
    left_out = Counter(read.left_out)
    prompts: dict[str, Messages] = {}
    seen: set[tuple[str, str]] = set()
    for demonstration in read.rows:
        led = with_system(demonstration.messages, system_prompt)
        if _answers_held_out(led, held_out):
            left_out[HELD_OUT] += 1
            continue
        for place in _turns(led):
            reason = _reason(led, place)
            messages, answer = led[:place], str(led[place]["content"])
            key = content_key(messages)
            if not reason and (key, answer.strip()) in seen:
                reason = REPEATED
            if reason:
                left_out[reason] += 1
                continue
            seen.add((key, answer.strip()))
            messages = prompts.setdefault(key, messages)
            rows.append(DemonstratedAnswer(demonstration.place, prompt_id(messages), messages, answer))
    return DemonstratedAnswers(rows, dict(left_out), read.digest)


def answers_of_held_out(read: Demonstrations, *, system_prompt: str, held_out: HeldOutContents) -> DemonstratedAnswers:
    """Return the turns of exactly those conversations that `demonstrated_answers` leaves out as held out."""
    led = (with_system(row.messages, system_prompt) for row in read.rows)
    kept = [row for row, messages in zip(read.rows, led, strict=True) if _answers_held_out(messages, held_out)]
    nothing = HeldOutContents([], "content")
    return demonstrated_answers(read._replace(rows=kept), system_prompt=system_prompt, held_out=nothing)


def _answers_held_out(messages: Messages, held_out: HeldOutContents) -> bool:
    """Return whether a turn of the conversation answers a held-out prompt."""
    return any(held_out.reason(messages[:place]) is not None for place in _turns(messages))


def _turns(messages: Messages) -> list[int]:
    """Return the places of the assistant's turns."""
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]


def _reason(messages: Messages, place: int) -> str:
    """Return why a turn demonstrates no answer that is a text; empty if it does."""
    if not place or messages[place - 1]["role"] not in ASKING:
        return NO_QUESTION
    if messages[place].get("tool_calls"):
        return CALLS_TOOLS
    return "" if str(messages[place]["content"]).strip() else EMPTY
