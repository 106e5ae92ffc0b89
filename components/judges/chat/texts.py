"""Texts as models write them: thoughts before the answer, and halves of characters. Pure; knows no form."""

import re
from typing import Any

TAG = r"(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|seed:think)"
OPENING = re.compile(rf"<{TAG}\s*>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>", re.IGNORECASE)
CLOSING = re.compile(rf"</{TAG}\s*>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.IGNORECASE)
"""Tags of thoughts: of R1 and Qwen, Seed-OSS, Magistral, Kimi-VL, gpt-oss, and those that models invent."""


def parts_after_thoughts(text: str) -> list[str]:
    """Return what may be the answer: the whole text, and the rest after each closing tag of a thought.

    A template may write the opening tag, so a closing one need not have one. The last part is the answer, unless an
    earlier one is a whole answer that only mentions the tags.
    """
    return [text.strip(), *(text[closing.end() :].strip() for closing in CLOSING.finditer(text))]


def mended(text: str) -> str:
    """Return the text with U+FFFD for halves of surrogate pairs, which can be neither hashed nor stored nor sent."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def mended_value(value: Any) -> Any:
    """Return a JSON value with all its texts mended."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [mended_value(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended_value(item) for key, item in value.items()}
    return value
