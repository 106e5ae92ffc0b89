"""Reads demonstrations: conversations whose assistant's turns a model learns to say. Knows no model and no stage."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from typing import Any, NamedTuple

from components.data.content import content_key
from components.data.conversations import CONTEXT, chat_messages, conversation, read_messages, with_context
from components.data.messages import Messages, format_messages, with_system, without_system
from components.data.rows import Row, Rows, read_rows
from components.data.transcripts import is_transcript

CONVERSATION = ("messages", "conversations", "text")
"""Columns that hold a whole conversation: chat messages, ShareGPT's, or a transcript of `Human:` and `Assistant:`."""
PROMPT, COMPLETION = "prompt", "completion"
NO_TURN = "no assistant turn"
EMPTY_TURN = "an assistant turn is empty"
HELD_OUT = "it answers a prompt that the campaign holds out"
NO_PROMPT = "nothing stands before the assistant's first turn"


class Demonstration(NamedTuple):
    """A conversation that ends with an assistant's turn."""

    place: str
    """Row of the source, for messages."""
    messages: Messages

    @property
    def first_prompt(self) -> str:
        """Content key of what stands before the assistant's first turn."""
        first = next(place for place, message in enumerate(self.messages) if message["role"] == "assistant")
        return content_key(self.messages[:first])


class Demonstrations(NamedTuple):
    """The conversations of one source, in its order."""

    rows: list[Demonstration]
    left_out: dict[str, int]
    """Number of rows that demonstrate nothing, by reason."""
    digest: str
    """sha256 over the conversations, in order."""

    @property
    def num_rows(self) -> int:
        """Rows of the source."""
        return len(self.rows) + sum(self.left_out.values())


def read_demonstrations(source: str, *, split: str, revision: str = "") -> Demonstrations:
    """Read demonstrations with `messages`, `conversations`, `prompt` and `completion`, or transcripts in `text`.

    What follows the assistant's last turn is dropped. Columns `system` and `tools` belong to the conversation.

    Args:
        source: A source that `rows.read_rows` reads.
        split: Split of a data set that has splits.
        revision: Branch, tag or commit of a data set of the hub; empty is `main`.

    Raises:
        ValueError: The source cannot be read, has none of these columns, or a row is malformed; names the row.
    """
    read = read_rows(source, split=split, columns={*CONVERSATION, PROMPT, COMPLETION, *CONTEXT}, revision=revision)
    column = _column(read)
    rows: list[Demonstration] = []
    left_out: Counter[str] = Counter()
    for row in read.rows:
        messages = _with_last_turn(with_context(_conversation(row, column), row))
        reason = _reason(messages)
        if reason:
            left_out[reason] += 1
        else:
            rows.append(Demonstration(row.place, messages))
    content = json.dumps([format_messages(row.messages) for row in rows], ensure_ascii=False)
    return Demonstrations(rows, dict(left_out), hashlib.sha256(content.encode()).hexdigest())


def for_policy(read: Demonstrations, *, system_prompt: str, held_out: Collection[str]) -> Demonstrations:
    """Return demonstrations as a campaign's policy reads them, without those of held-out prompts.

    Args:
        read: The demonstrations.
        system_prompt: `policy.system_prompt`.
        held_out: Content keys of the held-out prompts, without the system prompt.
    """
    kept, left_out = [], Counter(read.left_out)
    for row in read.rows:
        plain = without_system(row.messages, system_prompt)
        answered = [plain[:place] for place, message in enumerate(plain) if message["role"] == "assistant"]
        if held_out and any(content_key(prompt) in held_out for prompt in answered):
            left_out[HELD_OUT] += 1
        else:
            kept.append(row._replace(messages=with_system(row.messages, system_prompt)))
    return Demonstrations(kept, dict(left_out), read.digest)


def _column(read: Rows) -> str:
    """Return the column of the conversations; `completion` if they are made of prompt and completion."""
    if {PROMPT, COMPLETION} <= set(read.columns):
        return COMPLETION
    whole = next((name for name in CONVERSATION if name in read.columns), None)
    if whole is None:
        raise ValueError(
            f"{read.source} has no demonstrations (columns: {', '.join(read.columns)}): name a data set with prompt "
            f"and completion, or with one of {', '.join(CONVERSATION)}"
        )
    return whole


def _conversation(row: Row, column: str) -> Messages:
    if column == COMPLETION:
        return [*conversation(row.values.get(PROMPT), row.place), *_completion(row)]
    value = row.values.get(column)
    if isinstance(value, str) and column == "text" and not is_transcript(value):
        raise ValueError(
            f"{row.place}: text is not a transcript of 'Human:' and 'Assistant:' turns: use chat messages, or the "
            "columns prompt and completion"
        )
    messages = read_messages(value, row.place)
    if not messages:
        raise ValueError(f"{row.place}: the conversation is empty: fill it in or remove the row")
    return messages


def _completion(row: Row) -> Messages:
    value: Any = row.values.get(COMPLETION)
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else chat_messages(value, row.place)


def _with_last_turn(messages: Messages) -> Messages:
    """Return a conversation up to its last assistant's turn; as it is if it has none."""
    last = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    return messages[: last + 1] if last >= 0 else messages


def _reason(messages: Messages) -> str:
    """Return why a conversation demonstrates nothing; empty if it does."""
    if messages[-1]["role"] != "assistant":
        return NO_TURN
    if messages[0]["role"] == "assistant":
        return NO_PROMPT
    said = [message for message in messages if message["role"] == "assistant"]
    return "" if all(message["content"].strip() or message.get("tool_calls") for message in said) else EMPTY_TURN
