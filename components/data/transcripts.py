r"""Dialogues written as text in the form of Anthropic's HH data: `\n\nHuman: ...\n\nAssistant: ...`."""

import re

from components.data.messages import Messages

TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Return whether a text begins with a human turn and has an assistant turn."""
    lines = text.lstrip()
    return lines.startswith("Human:") and re.search(r"\n\nAssistant:", lines) is not None


def parse_transcript(text: str, place: str) -> Messages:
    """Split a transcript into chat messages; consecutive turns of one speaker become one message.

    Raises:
        ValueError: The text is not a transcript.
    """
    if not is_transcript(text):
        raise ValueError(
            f"{place}: there is no prompt, and the text is not a transcript of 'Human:' and 'Assistant:' turns: "
            "add a column prompt, or use chat messages"
        )
    _, *parts = TURN.split(text.lstrip())
    messages: Messages = []
    for speaker, text_of_turn in zip(parts[::2], parts[1::2], strict=True):
        role, content = ROLES[speaker], text_of_turn.strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
        else:
            messages.append({"role": role, "content": content})
    return messages
