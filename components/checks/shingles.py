"""Texts as sets of three words in a row (shingles), their exact similarity, and MinHash signatures by rensa.

A text begins and ends with two empty words. So every word is in three shingles, and one other word weighs the same
wherever it stands; without them, short prompts of a template that differ in their last word would be near duplicates.

rensa's signatures only propose which texts may be alike: equal signatures are not equal texts, and its deduplicator
keeps whichever text it sees first. So texts are compared by their sets, over the whole data.
"""

import string
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

Hashes = NDArray[np.uint64]
"""Hashes of a text's words, in order."""
Shingles = NDArray[np.uint32]
"""The sorted set of a text's shingles, as hashes."""

_SPACED = bytes(
    ord(" ") if (character in string.punctuation.encode() or character < 32) else character for character in range(256)
)
PLAIN = _SPACED.translate(bytes.maketrans(string.ascii_uppercase.encode(), string.ascii_lowercase.encode()))
"""Table of bytes: ASCII punctuation and control characters are spaces, letters are small."""
WORDS = 3
"""Words of a shingle."""
BANDS, ROWS = 16, 4
"""Bands of a signature and values of a band: of texts with a similarity of 0.7, 99 % agree in a band; of 0.2, 3 %. A
value is kept in one byte, so a band is an integer of four, and bytes that agree estimate the similarity."""
SEED = 20261130
LONG_WORD = 24
"""Mean bytes of a word from which on a text is taken for one of a script without spaces, and read by character."""
MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
MIXER = np.uint32(0x9E3779B1)
"""Odd numbers that spread bits, those of the words of a shingle and that of a value of a signature."""


def words(text: str) -> list[bytes]:
    """Return a text's words without case and punctuation; its characters if its script has no spaces."""
    if text.isascii():
        return text.encode().translate(PLAIN).split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = folded.encode(errors="surrogatepass").translate(PLAIN)
    parts = plain.split()
    if len(plain) <= LONG_WORD * len(parts):
        return parts
    return [character.encode(errors="surrogatepass") for character in "".join(folded.split())]


def word_hashes(text: str) -> Hashes:
    """Return a hash of each word, in order."""
    parts = words(text)
    return np.fromiter(map(zlib.crc32, parts), dtype=np.uint64, count=len(parts))


def shingles(hashes: Hashes) -> Shingles:
    """Return the set of a text's shingles, at most two more than it has words."""
    return np.unique((_combined(np.pad(hashes, WORDS - 1)) >> np.uint64(32)).astype(np.uint32))


def similarity(one: Hashes, other: Hashes) -> float:
    """Return the Jaccard index of two texts' shingles, from the hashes of their words."""
    return jaccard(shingles(one), shingles(other))


def jaccard(one: Shingles, other: Shingles) -> float:
    """Return the size of the intersection of two sorted sets over that of their union."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def signatures(texts: Sequence[Hashes]) -> NDArray[np.uint32]:
    """Return the bands of each text's MinHash signature; near duplicates agree in at least one, nearly surely.

    Args:
        texts: The hashes of the words of each text.

    Returns:
        Array of shape (texts, BANDS).
    """
    if not texts:
        return np.zeros((0, BANDS), dtype=np.uint32)
    lengths = np.array([len(hashes) for hashes in texts]) + (WORDS - 1)
    ends = np.cumsum(lengths)
    # The empty words at the end of a text are those at the beginning of the next one.
    joined = np.zeros(int(ends[-1]) + WORDS - 1, dtype=np.uint64)
    is_word = np.ones(len(joined), dtype=bool)
    is_word[: WORDS - 1] = False
    for behind in range(WORDS - 1):
        is_word[ends + behind] = False
    joined[is_word] = np.concatenate(texts)
    flat = _combined(joined)
    offsets = np.concatenate([[0], ends]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, BANDS * ROWS, SEED)
    values = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(texts), BANDS * ROWS)
    return ((values * MIXER) >> np.uint32(24)).astype(np.uint8).view(np.uint32)


def estimated_similarity(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return the estimated similarity of texts, row by row; its standard error is at most 0.06.

    Args:
        one: Bands (texts, BANDS).
        other: Bands of the texts that they are compared with.
    """
    agree: NDArray[np.float64] = (one.view(np.uint8) == other.view(np.uint8)).mean(axis=1)
    return agree


def _combined(hashes: Hashes) -> Hashes:
    """Return a well-mixed hash of each three words in a row."""
    mixed = hashes[:-2] * MULTIPLIERS[0] + hashes[1:-1] * MULTIPLIERS[1] + hashes[2:] * MULTIPLIERS[2]
    mixed ^= mixed >> np.uint64(31)
    mixed *= MULTIPLIERS[1]
    return mixed ^ (mixed >> np.uint64(29))
