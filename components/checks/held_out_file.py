"""Reads the held-out prompts that training data are compared with, from a file of prompts or of pairs."""

from collections.abc import Iterator

from components.checks.leakage import HeldOut
from components.checks.scan import BATCH_ROWS
from components.data.conversations import conversation, with_context
from components.data.forms.pair_rows import COLUMNS, read_pair
from components.data.forms.pair_source import PairSource
from components.data.messages import Messages
from components.data.raw_batch import NoPair, Unreadable
from components.data.row_batches import RowSource
from components.data.rows import Row

ANSWERS = ("chosen", "completion")


def read_held_out(source: str, *, split: str, similarity: float) -> HeldOut:
    """Read held-out prompts: a column `prompt`, or what the answers of pairs follow.

    Args:
        source: The file or data set.
        split: Split of a data set that has splits.
        similarity: Similarity from which on another prompt is nearly the same.

    Raises:
        ValueError: It cannot be read, is empty, or a row has no prompt; names the row.
    """
    held_out = HeldOut(_prompts(PairSource(RowSource(source, split=split), carried=())), similarity=similarity)
    if not held_out.keys:
        raise ValueError(f"{source} is empty: name a data set with at least one row")
    return held_out


def _prompts(source: PairSource) -> Iterator[Messages]:
    for batch in source.batches(size=BATCH_ROWS, columns=COLUMNS):
        for row in batch.rows():
            if isinstance(row, Unreadable):
                raise ValueError(f"{row.place} {row.reason}")
            if isinstance(row, NoPair):
                continue
            messages = _prompt(row)
            if messages is not None:
                yield messages


def _prompt(row: Row) -> Messages | None:
    """Return the prompt of a row; None if its two conversations have none in common."""
    if any(row.values.get(name) is not None for name in ANSWERS):
        pair = read_pair(row, [*row.values])
        return None if pair is None else pair.messages
    if row.values.get("prompt") is None:
        raise ValueError(f"{row.place} has no prompt: held-out data need a column prompt, or pairs")
    return with_context(conversation(row.values["prompt"], row.place), row)
