"""Reads a user's own responses: several to a prompt in one row, or one a row. Knows no judge and no stage."""

from typing import Any

from components.data.messages import Messages
from components.data.prompts import conversation, prompt_id
from components.data.rows import Row, Rows, read_rows
from components.judges.protocol import Group

COLUMNS = ("prompt", "responses", "response")


def read_responses(source: str, *, split: str) -> list[Group]:
    """Loads prompts with the responses to each; rows of one prompt belong together.

    Args:
        source: What `rows.read_rows` reads. Columns: prompt (text, or chat messages that end with the user's), and
            responses (a list of texts) or response (one text).
        split: Split of a data set with splits.

    Returns:
        A group for each prompt, in the order of their first rows; a prompt's responses are numbered from 0 in theirs.

    Raises:
        ValueError: It cannot be read, a row holds something else, or no prompt has two responses to compare; names the
            row.
    """
    read = read_rows(source, split=split, columns=COLUMNS)
    prompts: dict[str, Messages] = {}
    texts: dict[str, list[str]] = {}
    for row in read.rows:
        messages = _prompt(row, read)
        name = prompt_id(messages)
        prompts.setdefault(name, messages)
        texts.setdefault(name, []).extend(_responses(row, read))
    if all(len(several) < 2 for several in texts.values()):
        raise ValueError(
            f"{source} has no prompt with two responses or more: give several responses to the same prompt"
        )
    return [Group(name, messages, tuple(enumerate(texts[name]))) for name, messages in prompts.items()]


def _prompt(row: Row, read: Rows) -> Messages:
    if row.values.get("prompt") is None:
        raise ValueError(f"{row.place} has no prompt: add a column prompt (there are {', '.join(read.columns)})")
    return conversation(row.values["prompt"], row.place)


def _responses(row: Row, read: Rows) -> list[str]:
    given = {name: row.values[name] for name in ("responses", "response") if row.values.get(name) is not None}
    if len(given) != 1:
        there = f"there are {', '.join(read.columns)}"
        raise ValueError(
            f"{row.place} has {' and '.join(given) or 'no responses'}: write responses (a list) or response (a text); {there}"
        )
    ((name, value),) = given.items()
    several: Any = [value] if name == "response" else value
    if not isinstance(several, list) or not all(isinstance(text, str) for text in several):
        raise ValueError(
            f"{row.place}: {name} is {'no text' if name == 'response' else 'no list of texts'}: write answers as plain text"
        )
    return several
