"""Texts as models write them: thoughts before the answer, and halves of characters. Pure; knows no form."""

import re

TAG = r"(?:think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|seed:think)"
OPENING = re.compile(rf"<{TAG}\s*>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>", re.IGNORECASE)
CLOSING = re.compile(rf"</{TAG}\s*>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.IGNORECASE)
"""Tags of thoughts: of R1 and Qwen, Seed-OSS, Magistral, Kimi-VL, gpt-oss, and those that models invent."""
MOST_TAGS = 20
"""Closing tags behind which a whole answer is looked for; the rest behind the last one is always looked at."""


def parts_after_thoughts(text: str) -> list[str]:
    """Return what may be the answer: the whole text, and the rest after each closing tag of a thought.

    A template may write the opening tag, so a closing one need not have one. The last part is the answer, unless an
    earlier one is a whole answer that only mentions the tags.
    """
    ends = [closing.end() for closing in CLOSING.finditer(text)]
    return [text[end:].strip() for end in (0, *ends[:MOST_TAGS], *ends[-1:])]


def mended(text: str) -> str:
    """Return the text with U+FFFD for halves of surrogate pairs, which can be neither hashed nor stored nor sent."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
