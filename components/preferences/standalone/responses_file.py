"""Reads a user's own responses: several per row, or one per row. Knows no judge and no stage."""

from typing import Any

from components.data.columns import Claim, read_columns, warn_of_conflicts
from components.data.conversations import CONTEXT, conversation, warn_of_doubts, with_context
from components.data.funnel import counted, step, too_little
from components.data.messages import Messages, with_system
from components.data.prompts import prompt_id
from components.data.rows import Row, Rows, read_rows
from components.judges.protocol import Group

COLUMNS = ("prompt", "responses", "response", *CONTEXT)


def read_responses(source: str, *, split: str, system_prompt: str = "", carries_columns: bool = False) -> list[Group]:
    """Load prompts with their responses; rows with the same prompt are merged.

    Args:
        source: A source that `rows.read_rows` reads. Columns: prompt (in a form that `conversations.conversation`
            reads), and responses (a list of texts) or response (one text).
        split: Split of a data set that has splits.
        system_prompt: `policy.system_prompt`, which prompts get that have no system message.
        carries_columns: Whether the groups have the other columns of their prompts' first rows.

    Returns:
        One group per prompt, in the order of their first rows; its responses are numbered from 0 in row order.

    Raises:
        ValueError: The source cannot be read, a row has no prompt or responses, or no prompt has two responses to
            compare; names the row.
    """
    read = read_rows(source, split=split, columns=None if carries_columns else COLUMNS)
    warn_of_doubts(read, prompt="prompt", used=COLUMNS)
    prompts: dict[str, Messages] = {}
    texts: dict[str, list[str]] = {}
    claims: dict[str, Claim] = {}
    repeated: list[tuple[Claim, Claim]] = []
    for row, columns in zip(read.rows, read_columns(source, read.rows, without=COLUMNS), strict=True):
        messages = with_system(_prompt(row, read), system_prompt)
        name = prompt_id(messages)
        prompts.setdefault(name, messages)
        texts.setdefault(name, []).extend(_responses(row, read))
        claim = Claim(columns, row.place)
        repeated.append((claims.setdefault(name, claim), claim))
    warn_of_conflicts(source, repeated)
    if all(len(responses) < 2 for responses in texts.values()):
        ones = {"one response": sum(len(responses) == 1 for responses in texts.values())}
        raise ValueError(
            too_little(
                f"{source} has no prompt with two or more responses",
                [step(len(texts), "prompts", counted(ones, {}))],
                otherwise="give at least two responses to the same prompt",
            )
        )
    return [
        Group(name, messages, tuple(enumerate(texts[name])), columns=claims[name].columns)
        for name, messages in prompts.items()
    ]


def _prompt(row: Row, read: Rows) -> Messages:
    if row.values.get("prompt") is None:
        raise ValueError(f"{row.place} has no prompt: add a column prompt (the columns are {', '.join(read.columns)})")
    return with_context(conversation(row.values["prompt"], row.place), row)


def _responses(row: Row, read: Rows) -> list[str]:
    cells = {name: row.values[name] for name in ("responses", "response") if row.values.get(name) is not None}
    if len(cells) != 1:
        raise ValueError(
            f"{row.place} has {'both responses and response' if cells else 'no responses'}: write either responses "
            f"(a list of texts) or response (one text); the columns are {', '.join(read.columns)}"
        )
    ((name, value),) = cells.items()
    texts: Any = [value] if name == "response" else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{row.place}: {name} must be {'one text' if name == 'response' else 'a list of texts'}")
    return texts
