"""Excerpts of texts that are safe to show: short, in one line, with personal data and secrets masked."""

from components.checks.personal_data import find_personal_data
from components.checks.secrets import Span, find_secrets
from components.runtime.printable import one_line

CHARACTERS = 160
"""Characters of an excerpt."""
MOST_CHARACTERS = 400
"""Characters of one whose part that must be seen is longer."""
MARGIN = 400
"""Characters beside the excerpt that are read too, so that a number at its border is recognised."""


def excerpt(text: str, start: int = 0, end: int = 0, *, region: str) -> str:
    """Return a part of a text around a place, in one printable line.

    Args:
        text: The text.
        start: Where the part begins that must be seen.
        end: Where it ends.
        region: As of `find_personal_data`.
    """
    seen = min(end - start, MOST_CHARACTERS)
    length = max(CHARACTERS, seen)
    first = max(0, min(start - (length - seen) // 2, len(text) - length))
    last = min(len(text), first + length)
    shown = _masked(text, first, last, region)
    return ("… " if first else "") + one_line(shown) + (" …" if last < len(text) else "")


def _masked(text: str, first: int, last: int, region: str) -> str:
    parts, place = [], first
    for span in _spans(text, first, last, region):
        if span.end <= place or span.start >= last:
            continue
        parts += [text[place : max(place, span.start)], f"[{span.kind}]"]
        place = span.end
    return "".join([*parts, text[place:last]])


def _spans(text: str, first: int, last: int, region: str) -> list[Span]:
    """Return what must not be shown; a secret may be longer than any margin."""
    begin = max(0, first - MARGIN)
    personal = find_personal_data(text[begin : last + MARGIN], region=region)
    moved = [Span(span.kind, span.start + begin, span.end + begin) for span in personal]
    return sorted(find_secrets(text) + moved, key=lambda span: span.start)
