"""Text of models, judges, servers and data, made safe to show: it must not steer a terminal or forge a line."""

import re

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters besides tab and line feed, line and paragraph separators, marks that reorder a line, and halves of
surrogate pairs, which no stream takes."""


def printable(text: str, instead: str = "\ufffd") -> str:
    """Return a text whose characters all show as themselves; line feeds and tabs stay."""
    return _STEERING.sub(instead, text)


def one_line(text: str, between: str = " ") -> str:
    """Return a text in one printable line; `between` stands in place of line breaks and the space around them.

    Line breaks are all that a terminal, Python or a Markdown reader takes for the end of a line, such as U+2028.
    """
    lines = (line.strip() for line in text.splitlines())
    return printable(between.join(line for line in lines if line))
