"""Checks of what chosen answers are: cut, or a refusal."""

import re
from collections.abc import Iterator

from components.checks.entries import FINISHED, Entries, Flag
from components.config import ChecksConfig

LENGTH_REASONS = ("length", "max_tokens", "max_length")
"""What servers write for an answer that reached the limit on tokens."""
MIN_CUT_CHARACTERS = 200
"""Fewest characters of an answer whose end is looked at: short ones often have no full stop."""
MIN_LINE_WORDS = 6
"""Fewest words of a last line that should end as a sentence; shorter ones are headings, names and list items."""
OPEN_END = re.compile(r"(?:[^\W\d_]|,|-|\(|\b(?:a|an|the|and|or|of|to|in|with)\s*)\Z")
LIST_ITEM = re.compile(r"\s*(?:[-*•|#>]|\d+[.)]|[A-Za-z][.)]\s|https?://|[\w ]{1,30}:\s)")
_CANNOT = r"(?:can(?:no|['’])t|can not|(?:am|['’]m) (?:not able|unable) to|won['’]t|will not|must decline)"
_SORRY = r"(?:(?:i['’]?m|i am) (?:really |very |so )?sorry|sorry|unfortunately|i apologi[sz]e)\b[^.!?\n]{0,60}?"
_HELP = (
    r"(?:help|assist|provide|answer|do (?:that|this)|comply|fulfil|fulfill|support|engage|create|write|generate|discuss"
    r"|share|give|offer|with (?:that|this))"
)
REFUSAL = re.compile(
    rf"\A\W*(?:{_SORRY})?\b(?:i|we) ?(?:{_CANNOT}\b[^.!?\n]{{0,40}}?\b{_HELP}|(?:do not|don['’]t) feel comfortable)\b"
    rf"|\A\W*(?:{_SORRY})?\bas an ai\b[^.!?\n]{{0,60}}?\b(?:{_CANNOT}|not able|unable|do not|don['’]t)",
    re.IGNORECASE,
)
"""The beginning of a refusal in English."""
REFUSAL_CHARACTERS = 250


def cut_answers(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find chosen answers that reached a limit on tokens, or that end as no text does."""
    for entry in entries.pairs:
        chosen = entry.pair.chosen
        if chosen is None:
            continue
        if entry.label(FINISHED) in LENGTH_REASONS:
            yield Flag(entry.row, "the chosen answer reached the limit on tokens", chosen, len(chosen), len(chosen))
        elif chosen.count("```") % 2:
            yield Flag(entry.row, "the chosen answer ends within a block of code", chosen, len(chosen), len(chosen))
        elif _ends_open(chosen):
            yield Flag(
                entry.row, "the chosen answer ends in the middle of a sentence", chosen, len(chosen), len(chosen)
            )


def _ends_open(text: str) -> bool:
    text = text.rstrip()
    if len(text) < MIN_CUT_CHARACTERS or not OPEN_END.search(text[-40:]):
        return False
    line = text[text.rfind("\n") + 1 :]
    return not LIST_ITEM.match(line) and len(line.split()) >= MIN_LINE_WORDS


def refused_answers(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find chosen answers that begin with a refusal."""
    for entry in entries.pairs:
        chosen = entry.pair.chosen
        found = REFUSAL.match(chosen[:REFUSAL_CHARACTERS]) if chosen else None
        if chosen and found:
            yield Flag(entry.row, "the chosen answer is a refusal", chosen, *found.span())
