"""The check for leakage: training prompts that are held out, by content, by near content, by conversation prefix.

Knows no file: it compares prompts as chat messages, so that round 0 can ask it too.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from components.checks.columns import prompt_key
from components.checks.duplicates import DOUBT, MIN_PROMPT_WORDS
from components.checks.entries import Entries, Flag
from components.checks.shingles import BANDS, Hashes, estimated_similarity, jaccard, shingles, signatures, word_hashes
from components.config import ChecksConfig
from components.data.content import beginnings, is_telling
from components.data.messages import Messages

SAME = "the prompt is held out"
NEAR = "the prompt is nearly one that is held out"
LONGER = "the prompt continues a conversation that is held out"
SHORTER = "the prompt begins a conversation that is held out"


class HeldOut:
    """An index of held-out prompts.

    Args:
        prompts: The prompts as chat messages.
        similarity: Similarity from which on another prompt is nearly the same.
    """

    def __init__(self, prompts: Iterable[Messages], *, similarity: float) -> None:
        self.similarity = similarity
        distinct = {prompt_key(messages): messages for messages in prompts}
        self.keys = frozenset(distinct)
        self.beginnings = frozenset(key for messages in distinct.values() for key in _beginnings(messages)) - self.keys
        words = [word_hashes(_text(messages)) for messages in distinct.values()]
        long = [each for each in words if len(each) >= MIN_PROMPT_WORDS]
        self.shingles = [shingles(each) for each in long]
        self.bands = signatures(long)
        self.buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, bands in enumerate(self.bands):
            for band, value in enumerate(bands.tolist()):
                self.buckets[band, value].append(index)

    def reasons(
        self, prompts: Sequence[Messages], words: Sequence[Hashes], bands: NDArray[np.uint32]
    ) -> list[str | None]:
        """Return for each training prompt why it must not be trained on; None if it may.

        Args:
            prompts: The prompts.
            words: The hashes of each prompt's words.
            bands: The MinHash bands (prompts, BANDS).
        """
        return [
            self._reason(messages, hashes, own) for messages, hashes, own in zip(prompts, words, bands, strict=True)
        ]

    def reasons_of(self, prompts: Sequence[Messages]) -> list[str | None]:
        """Return the same, without words and bands that somebody has at hand."""
        words = [word_hashes(_text(messages)) for messages in prompts]
        return self.reasons(prompts, words, signatures(words))

    def _reason(self, messages: Messages, words: Hashes, bands: NDArray[np.uint32]) -> str | None:
        key = prompt_key(messages)
        if key in self.keys:
            return SAME
        if any(beginning in self.keys for beginning in _beginnings(messages)):
            return LONGER
        if key in self.beginnings and is_telling(messages):
            return SHORTER
        return NEAR if len(words) >= MIN_PROMPT_WORDS and self._has_near(words, bands) else None

    def _has_near(self, words: Hashes, bands: NDArray[np.uint32]) -> bool:
        proposed = {index for band in range(BANDS) for index in self.buckets.get((band, int(bands[band])), ())}
        if not proposed:
            return False
        near = np.array(sorted(proposed))
        likely = near[estimated_similarity(self.bands[near], bands[np.newaxis]) >= self.similarity - DOUBT]
        own = shingles(words)
        return any(jaccard(own, self.shingles[index]) >= self.similarity for index in likely)


def leakage(entries: Entries, config: ChecksConfig, held_out: HeldOut | None) -> Iterator[Flag]:
    """Find rows whose prompt is held out."""
    if held_out is None:
        return
    prompts = [entry.messages for entry in entries.pairs]
    reasons = held_out.reasons(prompts, entries.words[::3], entries.bands[:, 0])
    for entry, reason in zip(entries.pairs, reasons, strict=True):
        if reason:
            yield Flag(entry.row, reason, entry.prompt)


def _beginnings(messages: Messages) -> Iterator[int]:
    return (prompt_key(beginning) for beginning in beginnings(messages))


def _text(messages: Messages) -> str:
    return "\n\n".join(message["content"] for message in messages)
