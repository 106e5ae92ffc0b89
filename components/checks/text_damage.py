"""Checks of the characters of texts: special tokens and template marks, and damaged encoding."""

import re
from collections.abc import Iterator

from components.checks.entries import Entries, Flag
from components.config import ChecksConfig

STARTS = ("<", "[", "#")
"""Characters of which each mark has one: to look for them is many times as fast as the expression below."""
MARKS = re.compile(
    r"<\|(?:[a-z][a-z0-9_]{1,30}|[A-Z][A-Z0-9_]{1,40})\|>"
    r"|<｜[^｜\n]{1,40}｜>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:pad|unk)>|\[PAD\]"
    r"|\A\s*<s>(?![\s\S]*</s>)|</s>\s*\Z|</s>\s*<s>"
    r"|(?:\A|\n)### (?:Instruction|Response):"
)
SPEAKER = re.compile(r"\n\n(?:Human|Assistant):")
"""A turn of another speaker within an answer; prompts in this form are read as conversations."""
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
CONTROL_BYTES = bytes(code for code in range(0x80) if CONTROL.match(chr(code)))
REPLACEMENT = "\ufffd"

_UPPER_HALF = "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0x100))
"""What the bytes 0x80 to 0xFF are in Windows-1252; five of them are undefined there and stand for themselves."""
_BYTES = {ord(character): byte for byte, character in enumerate(_UPPER_HALF, 0x80)} | {
    code: code for code in range(0x80, 0xA0)
}
_LEADS = re.escape(_UPPER_HALF[0xC2 - 0x80 : 0xF5 - 0x80])
_TRAILS = re.escape("".join(chr(code) for code, byte in _BYTES.items() if byte < 0xC0))
MISREAD = re.compile(f"[{_LEADS}][{_TRAILS}]+")
"""What UTF-8 looks like if it was read as Windows-1252 or Latin-1."""


def special_tokens(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find special tokens and marks of chat templates, which a tokenizer may take for what they stand for."""
    for entry in entries.pairs:
        for text in entry.texts:
            found = MARKS.search(text) if any(start in text for start in STARTS) else None
            if found is None and text is not entry.prompt and ("Human:" in text or "Assistant:" in text):
                found = SPEAKER.search(text)
            if found:
                yield Flag(entry.row, "special token or template mark", text, found.start(), found.end())
                break


def damaged_text(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find characters that no encoding gave (U+FFFD), control characters, and UTF-8 that was read as another one."""
    for entry in entries.pairs:
        for text in entry.texts:
            damage = _damage(text)
            if damage:
                yield Flag(entry.row, damage[0], text, *damage[1])
                break


def _damage(text: str) -> tuple[str, tuple[int, int]] | None:
    content = text.encode(errors="surrogatepass")
    control = CONTROL.search(text) if len(content) > len(content.translate(None, CONTROL_BYTES)) else None
    if control:
        return "control character", control.span()
    if text.isascii():
        return None
    place = text.find(REPLACEMENT)
    if place >= 0:
        return "replacement character U+FFFD", (place, place + 1)
    misread = next((found for found in MISREAD.finditer(text) if _is_utf8(found[0])), None)
    return ("UTF-8 that was read in another encoding", misread.span()) if misread else None


def _is_utf8(run: str) -> bool:
    """Return whether the bytes behind misread characters begin with a character of UTF-8 that people write.

    A capital letter before a closing quotation mark, such as the end of a German quotation, is two bytes of some
    character too: what they give must be a letter of a European script, or punctuation of a few blocks.
    """
    content = bytes(_BYTES[ord(character)] for character in run)
    for length in (4, 3, 2):
        if len(content) < length:
            continue
        try:
            character = content[:length].decode()
        except UnicodeDecodeError:
            continue
        if len(character) == 1:
            code = ord(character)
            return length > 2 or code < 0x180 or 0x370 <= code < 0x530
    return False
