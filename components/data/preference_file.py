"""Reads a preference data set in any published form (`forms`). Knows no judge and no stage."""

import functools
import logging

from components.data.conversations import CONTEXT, warn_of_doubts
from components.data.forms.form import Reading
from components.data.forms.pair_rows import ANSWERS, read_pair_rows
from components.data.forms.pair_rows import COLUMNS as PAIR_COLUMNS
from components.data.forms.registry import form_of, typed, wanted_columns, with_columns
from components.data.funnel import counted, step, too_little
from components.data.rows import Rows, read_rows
from components.data.seed_pair import SeedPair, SeedPairs

__all__ = ["SeedPair", "SeedPairs", "load_seed_pairs"]

log = logging.getLogger(__name__)


def load_seed_pairs(source: str, *, split: str, carries_columns: bool = False, revision: str = "") -> SeedPairs:
    """Load a preference data set.

    Of a prompt with several rated answers, the best is paired with the worst.

    Args:
        source: A source that `rows.read_rows` reads.
        split: Split of a data set that has splits.
        carries_columns: Whether the pairs have the other columns of their rows, for a judge that reads them. They are
            all but those of the prompt and the answers.
        revision: Hub revision of a data set of the hub.

    Raises:
        ValueError: The source cannot be read, lacks a column, has no usable pair, or a row is malformed; names the row.
    """
    read = read_rows(source, split=split, columns=None if carries_columns else wanted_columns, revision=revision)
    form, rows = form_of(read), typed(read)
    is_pair_form = form is None or form.read is read_pair_rows
    if is_pair_form:
        warn_of_doubts(rows, prompt="prompt", used=PAIR_COLUMNS)
    reading = read_pair_rows(rows, "best_worst") if form is None else form.read(rows, "best_worst")
    if carries_columns:
        unless = frozenset((*ANSWERS, *CONTEXT)) if form is None or is_pair_form else form.columns
        reading = with_columns(reading, rows, unless=unless)
    _warn_of_rows_without_pairs(source, tuple(reading.left_out.items()))
    refuse_no_pairs(read, reading)
    return SeedPairs(reading.pairs, reading.split_earlier, dict(reading.left_out))


def refuse_no_pairs(read: Rows, reading: Reading) -> None:
    """Refuse a source that gave no pair, and say why.

    Raises:
        ValueError: It gave none.
    """
    if reading.pairs:
        return
    parted = {"chosen and rejected differ before the last answer": len(reading.split_earlier)}
    raise ValueError(
        too_little(
            f"{read.source} has no pair of answers to the same prompt",
            [step(len(read.rows), "rows", counted({**parted, **reading.left_out}, {}))],
            otherwise="chosen and rejected must agree in all messages but the last"
            if reading.split_earlier
            else "name a data set with answers that are compared",
        )
    )


@functools.cache
def _warn_of_rows_without_pairs(source: str, left_out: tuple[tuple[str, int], ...]) -> None:
    for reason, count in left_out:
        log.warning("%s: %d rows give no pair: %s", source, count, reason)
