r"""Dialogues written as text in the form of Anthropic's HH data: `\n\nHuman: ...\n\nAssistant: ...`."""

import re

from components.data.messages import Messages

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Whether a text begins as a transcript does, and has an assistant's turn."""
    lines = text.lstrip()
    return lines.startswith("Human:") and re.search(r"\n\nAssistant:", lines) is not None


def parse_transcript(text: str, place: str) -> Messages:
    """Splits a transcript into chat messages; turns of one speaker in a row become one message.

    Raises:
        ValueError: The text is no transcript.
    """
    if not is_transcript(text):
        raise ValueError(
            f"{place}: there is no prompt, and the text is no transcript of 'Human:' and 'Assistant:' turns: "
            "add a column prompt, or use chat messages"
        )
    _, *parts = TURN.split(text.lstrip())
    messages: Messages = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role, content = ROLES[speaker], said.strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
        else:
            messages.append({"role": role, "content": content})
    return messages
