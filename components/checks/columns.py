"""A file of pairs in numbers: some two hundred bytes of hashes, lengths and labels per row, for checks of the whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from components.checks.entries import ANNOTATORS, SOURCES, Entries, Entry
from components.checks.language import languages
from components.checks.shingles import BANDS, Hashes
from components.config import ChecksConfig
from components.data.content import normal_text
from components.data.messages import TOOL_KEYS, Messages

PROMPT, CHOSEN, REJECTED = range(3)
"""Texts of a row, in the second axis of its arrays."""
NOTHING = 0
"""Key of a text that is not there."""


@dataclass(frozen=True)
class Columns:
    """Facts of rows; a row that gave no pair has `NOTHING` and -1."""

    keys: NDArray[np.uint64]
    """Hashes (rows, 3) of the prompt's content and of the answers without white space at their ends."""
    word_keys: NDArray[np.uint64]
    """Hashes (rows, 3) of the texts' words, without case and punctuation."""
    bands: NDArray[np.uint32]
    """MinHash bands (rows, 3, BANDS) of the texts."""
    num_words: NDArray[np.uint32]
    """Words (rows, 3)."""
    num_characters: NDArray[np.uint32]
    """Characters (rows, 3)."""
    languages: NDArray[np.int32]
    """Codes (rows, 3) of the recognised languages; -1 where unsure."""
    labels: NDArray[np.int32]
    """Codes (rows, 3) of tag, source and annotator; -1 without."""
    names: list[str]
    """Names by code."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def are_pairs(self) -> NDArray[np.bool_]:
        """Which rows have two answers."""
        present: NDArray[np.bool_] = (self.keys != NOTHING).all(axis=1)
        return present


def columns_of(entries: Entries, config: ChecksConfig) -> Columns:
    """Return the facts of a batch."""
    names: dict[str, int] = {}
    rows = np.array([entry.row - entries.first for entry in entries.pairs], dtype=np.intp)
    texts = [(entry.prompt, entry.pair.chosen or "", entry.pair.rejected or "") for entry in entries.pairs]
    checks_language = config.wrong_language.on_breach != "off"
    filled = {
        "keys": [_keys(entry) for entry in entries.pairs],
        "word_keys": [_digest(each) for each in entries.words],
        "bands": entries.bands,
        "num_words": [len(each) for each in entries.words],
        "num_characters": [len(text) for three in texts for text in three],
        "languages": [
            _codes(languages(entry, config) if checks_language else [None] * 3, names) for entry in entries.pairs
        ],
        "labels": [
            _codes([entry.pair.tag, entry.label(SOURCES), entry.label(ANNOTATORS)], names) for entry in entries.pairs
        ],
    }
    columns = empty_columns(entries.num_rows)
    for name, values in filled.items():
        array = getattr(columns, name)
        array[rows] = np.asarray(values, dtype=array.dtype).reshape(len(rows), *array.shape[1:])
    columns.names.extend(names)
    return columns


def empty_columns(num_rows: int) -> Columns:
    """Return columns of rows that gave no pair."""
    return Columns(
        keys=np.full((num_rows, 3), NOTHING, dtype=np.uint64),
        word_keys=np.full((num_rows, 3), NOTHING, dtype=np.uint64),
        bands=np.zeros((num_rows, 3, BANDS), dtype=np.uint32),
        num_words=np.zeros((num_rows, 3), dtype=np.uint32),
        num_characters=np.zeros((num_rows, 3), dtype=np.uint32),
        languages=np.full((num_rows, 3), -1, dtype=np.int32),
        labels=np.full((num_rows, 3), -1, dtype=np.int32),
        names=[],
    )


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the columns of batches, in order, with one list of names."""
    names: dict[str, int] = {}
    coded: dict[str, list[NDArray[np.int32]]] = {"languages": [], "labels": []}
    for part in parts:
        # The last one stands for -1.
        codes = np.array([*(names.setdefault(name, len(names)) for name in part.names), -1], dtype=np.int32)
        for name in coded:
            coded[name].append(codes[getattr(part, name)])
    arrays: dict[str, NDArray[Any]] = {
        each.name: np.concatenate(coded.get(each.name) or [getattr(part, each.name) for part in parts])
        for each in fields(Columns)
        if each.name != "names"
    }
    return Columns(**arrays, names=[*names])


def prompt_key(messages: Messages) -> int:
    """Return a hash of a prompt's content: equal for prompts that `prompts.content_key` takes for equal."""
    content = "\x1e".join(
        f"{message['role']}\x1f{normal_text(message['content'])}"
        + "".join(f"\x1f{message[key]}" for key in TOOL_KEYS if key in message)
        for message in messages
    )
    return _nonzero(xxh3_64_intdigest(content.encode(errors="surrogatepass")))


def _keys(entry: Entry) -> tuple[int, int, int]:
    return prompt_key(entry.messages), _answer_key(entry.pair.chosen), _answer_key(entry.pair.rejected)


def _answer_key(text: str | None) -> int:
    return NOTHING if text is None else _nonzero(xxh3_64_intdigest(text.strip().encode(errors="surrogatepass")))


def _digest(hashes: Hashes) -> int:
    return _nonzero(xxh3_64_intdigest(hashes.tobytes()))


def _nonzero(key: int) -> int:
    return key or 1


def _codes(values: Iterable[str | None], names: dict[str, int]) -> list[int]:
    return [-1 if value is None else names.setdefault(value, len(names)) for value in values]
