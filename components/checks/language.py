"""The language of a text, by py3langid; none if it is not sure. Knows no check."""

import functools
from typing import TYPE_CHECKING

from components.checks.entries import Entry
from components.config import ChecksConfig

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

READ_CHARACTERS = 200
"""Characters that are classified, from the middle of a text: openings such as "Sure!" say little."""
MIN_LETTERS = 20
"""Fewest letters of a text that has a recognised language."""
MIN_LETTER_SHARE = 0.65
"""Smallest share of letters and spaces; code, tables and formulas have less."""
ENGLISH = frozenset(
    {"the", "and", "that", "with", "this", "you", "they", "which", "would", "should", "from", "have", "are", "because"}
)
MIN_ENGLISH_WORDS = 3
"""Different words of those above that no text of another language has together: they spare most data the model."""
NOT_WORDS = "zxx"
"""The code of ISO 639-2 for content that is not language, such as tables of hashes."""
UNSURE = ""


@functools.cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(text: str, *, min_confidence: float) -> str:
    """Return the ISO 639-1 code of a text's language; empty if it is short, hardly words, or the model is not sure."""
    start = max(0, (len(text) - READ_CHARACTERS) // 2)
    part = text[start : start + READ_CHARACTERS]
    plain = "".join(character for character in part if character.isalpha() or character.isspace())
    letters = len(plain) - sum(map(str.isspace, plain))
    if letters < MIN_LETTERS or len(plain) < MIN_LETTER_SHARE * len(part):
        return UNSURE
    if len(ENGLISH.intersection(part.lower().split())) >= MIN_ENGLISH_WORDS:
        return "en"
    name, confidence = _identifier().classify(part)
    return str(name) if name != NOT_WORDS and confidence >= min_confidence else UNSURE


def languages(entry: Entry, config: ChecksConfig) -> list[str | None]:
    """Return the languages of a row's last message, its chosen and its rejected answer; None where unsure."""
    texts = (entry.messages[-1]["content"], entry.pair.chosen or "", entry.pair.rejected or "")
    return [language(text, min_confidence=config.min_language_confidence) or None for text in texts]
