"""Checks of a row's form: values that no pair may have, and answers that say nothing about each other."""

import math
from collections.abc import Iterator

import numpy as np

from components.checks.entries import Entries, Flag
from components.checks.shingles import similarity
from components.config import ChecksConfig
from components.data.conversations import ASKING


def malformed(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find rows that are no pair, have an empty prompt, or a value out of its range."""
    yield from entries.malformed
    for entry in entries.pairs:
        pair, last = entry.pair, entry.messages[-1]
        if last["role"] not in ASKING:
            yield Flag(entry.row, "the prompt does not end with a user message")
        elif not last["content"].strip():
            yield Flag(entry.row, "the prompt is empty")
        if pair.p is not None and not 0 <= pair.p <= 1:
            yield Flag(entry.row, "p is outside [0, 1]", f"p = {pair.p:g}")
        if pair.margin is not None and not (math.isfinite(pair.margin) and pair.margin >= 0):
            yield Flag(entry.row, "margin is negative or infinite", f"margin = {pair.margin:g}")


def different_prompts(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find rows whose two conversations differ before the last answer."""
    yield from entries.different_prompts


def empty_answers(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find empty chosen answers. An empty answer may be rejected: it is the end of the turn alone."""
    for entry in entries.pairs:
        if entry.pair.chosen is not None and not entry.pair.chosen.strip():
            yield Flag(entry.row, "the chosen answer is empty", entry.prompt)


def identical_answers(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find pairs of equal answers, but for white space at their ends."""
    for row, chosen, rejected in _both(entries):
        if chosen == rejected or chosen.strip() == rejected.strip():
            yield Flag(row, "chosen equals rejected", chosen)


def identical_when_cut(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find answers that differ only behind the characters that are trained on."""
    limit = config.response_characters
    for row, chosen, rejected in _both(entries):
        longer = max(len(chosen), len(rejected)) > limit
        if longer and chosen[:limit] == rejected[:limit] and chosen.strip() != rejected.strip():
            yield Flag(row, f"the first {limit} characters are the same", chosen)


def near_identical_answers(entries: Entries, config: ChecksConfig) -> Iterator[Flag]:
    """Find answers to one prompt that are nearly the same words in the same order."""
    # Answers that are so alike agree in a band of their signatures, but for one pair in millions.
    maybe = (entries.bands[:, 1] == entries.bands[:, 2]).any(axis=1)
    for place in np.flatnonzero(maybe):
        entry, words = entries.pairs[place], entries.words[3 * place : 3 * place + 3]
        chosen, rejected = entry.pair.chosen, entry.pair.rejected
        if chosen is None or rejected is None or chosen.strip() == rejected.strip():
            continue
        if similarity(words[1], words[2]) >= config.identical_similarity:
            yield Flag(entry.row, "chosen and rejected are nearly the same", chosen)


def _both(entries: Entries) -> Iterator[tuple[int, str, str]]:
    """Yield row, chosen and rejected of the pairs that have both."""
    for entry in entries.pairs:
        if entry.pair.chosen is not None and entry.pair.rejected is not None:
            yield entry.row, entry.pair.chosen, entry.pair.rejected
