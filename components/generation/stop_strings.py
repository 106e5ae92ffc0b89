"""Texts at which a response ends: when a running response holds one, and where its tokens are cut for it."""

from collections.abc import Callable, Sequence
from functools import cached_property

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are only a part of a character."""
SLACK = 8
"""Tokens that are read beside those that may spell a stop string: some have no text, or another one at a beginning."""


class StopStrings:
    """Texts that end a response, read in the text of its tokens.

    A response keeps the tokens in front of the one in which the first stop string begins, so none of them has a part of
    it. What a token holds in front of the string goes with that token: the tokens that stay are sampled ones, and their
    text is all that a judge reads.

    Args:
        strings: The texts; none empty.
        decode: Returns the text of tokens.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.strings, self._decode = tuple(strings), decode
        self._may_end: dict[int, bool] = {}

    def ended(self, token_ids: Sequence[int]) -> bool:
        """Whether the last token completes a stop string.

        Reads a few tokens only. A string that hides from it, because a tokenizer writes some tokens otherwise on their
        own, ends the response later; `cut` finds it in any case.
        """
        return self._can_end(token_ids[-1]) and self._begin(self._decode(token_ids[-self._window :])) is not None

    def cut(self, token_ids: Sequence[int]) -> list[int] | None:
        """Return the tokens in front of the first stop string; None if the text has none.

        Args:
            token_ids: Tokens of a response without a stop token.
        """
        text = self._decode(token_ids)
        begin = self._begin(text)
        if begin is None:
            return None
        before = text[:begin]
        kept = len(token_ids) - 1
        while kept and not before.startswith(self._decode(token_ids[:kept])):
            kept -= 1
        return list(token_ids[:kept])

    @cached_property
    def _window(self) -> int:
        # A token has at least one byte of the text.
        return max(len(string.encode()) for string in self.strings) + SLACK

    @cached_property
    def _last_characters(self) -> frozenset[str]:
        return frozenset(string[-1] for string in self.strings)

    def _can_end(self, token: int) -> bool:
        """Whether the token may hold the last character of a stop string, or the last byte of it."""
        if token not in self._may_end:
            text = self._decode([token])
            # White space may be left out at the beginning of a text.
            white = any(character.isspace() for character in self._last_characters)
            self._may_end[token] = white or UNREADABLE in text or not self._last_characters.isdisjoint(text)
        return self._may_end[token]

    def _begin(self, text: str) -> int | None:
        """Return where the stop string begins that is complete first; None without one."""
        ends = [place + len(string) for string in self.strings if (place := text.find(string)) >= 0]
        if not ends:
            return None
        until = text[: min(ends)]
        return min(place for string in self.strings if (place := until.find(string)) >= 0)
