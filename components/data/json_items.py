"""The items of a JSON array, one after the other in bounded memory, as their own texts. Knows no rows."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO

CHUNK_BYTES = 2**20
BEHIND = frozenset(" \t\r\n,]")
"""Characters behind an item."""
_SPACE = re.compile(r"[ \t\r\n]*")


def json_items(file: IO[bytes], *, source: str, max_characters: int) -> Iterator[bytes]:
    """Yield the text of each item of an array.

    Args:
        file: An open file that begins with `[`, behind white space and a byte order mark at most.
        source: Its name, for errors.
        max_characters: Most characters of an item.

    Raises:
        ValueError: The array is not valid JSON or UTF-8, or an item is too long; one line.
    """
    decoder, reader = json.JSONDecoder(), _Text(file, source)
    number, goes_on = 0, reader.take("[") and reader.next() != "]"
    while goes_on:
        number += 1
        yield _item(reader, decoder, f"{source} item {number}", max_characters).encode(errors="surrogatepass")
        goes_on = reader.take(",")
    if not reader.take("]"):
        raise ValueError(f"{source} item {number} is not followed by a comma or the end of the array: write it again")
    if reader.next():
        raise ValueError(f"{source} has text behind its array: write one array, or one object per line")


def _item(reader: "_Text", decoder: json.JSONDecoder, place: str, max_characters: int) -> str:
    reader.next()
    while True:
        message, end = "", len(reader.text)
        try:
            _, end = decoder.raw_decode(reader.text, reader.position)
        except json.JSONDecodeError as error:
            message = error.msg
        except RecursionError:
            raise ValueError(f"{place} is nested too deeply: remove the nested value") from None
        # A number goes on until something else stands behind it.
        if not message and reader.text[end : end + 1] in BEHIND:
            return reader.cut(end)
        if len(reader.text) - reader.position > max_characters:
            raise ValueError(f"{place} has over {max_characters} characters: write one row per item")
        if not reader.more():
            if message:
                raise ValueError(f"{place} is not valid JSON ({message}): write the array again")
            return reader.cut(end)


class _Text:
    """A file's text from a position on; what is before it is forgotten."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        self.file, self.source = file, source
        self.text, self.position = "", 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def more(self) -> bool:
        """Read on, at least as much as is there, so that a long item is not parsed again at every chunk."""
        content = self.file.read(max(CHUNK_BYTES, len(self.text) - self.position))
        try:
            added = self.decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.source} is not valid UTF-8 ({error.reason}): save the file as UTF-8") from None
        if content:
            self.text, self.position = self.text[self.position :] + added, 0
        return bool(content)

    def next(self) -> str:
        """Go over white space and return the next character; empty at the end."""
        while True:
            space = _SPACE.match(self.text, self.position)
            self.position = space.end() if space else self.position
            if self.position < len(self.text) or not self.more():
                return self.text[self.position : self.position + 1]

    def take(self, character: str) -> bool:
        """Go over a character if it is the next one."""
        is_next = self.next() == character
        self.position += is_next
        return is_next

    def cut(self, end: int) -> str:
        """Go to a position and return the text before it."""
        item, self.position = self.text[self.position : end], end
        return item
