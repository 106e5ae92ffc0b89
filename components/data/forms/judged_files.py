"""Files with each person's judgement of two answers, in the forms that have room for it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.data.forms.convert import Conversion
from components.data.forms.form import Form
from components.data.forms.judged import JudgedPair, judgement
from components.data.forms.registry import FORMS, form_of, typed
from components.data.parquet_rows import lost_in_parquet
from components.data.preference_file import load_seed_pairs
from components.data.row_files import cells, check_writable, is_csv, is_parquet, write_rows
from components.data.rows import Row, Rows, read_rows
from components.data.seed_pair import SeedPair


def read_judged_pairs(source: str) -> list[JudgedPair]:
    """Return the judged pairs of a source in any form; those of a form without people have one judgement, of nobody.

    Args:
        source: A source that `rows.read_rows` reads.

    Raises:
        ValueError: The source cannot be read, has no usable pair, or a row is malformed; names the row.
    """
    pairs = load_seed_pairs(source, split="train").pairs
    read = read_rows(source, split="train", columns=None)
    form = form_of(read)
    if form is not None and form.read_judged is not None:
        judged = [form.read_judged(row) for row in typed(read).rows]
        return [pair for pair in judged if pair is not None]
    return [_judged_by_nobody(pair) for pair in pairs if not pair.is_single]


def _judged_by_nobody(pair: SeedPair) -> JudgedPair:
    assert pair.chosen is not None
    assert pair.rejected is not None
    said = judgement(float(pair.better == pair.chosen), float(pair.better == pair.rejected))
    return JudgedPair(pair.messages, pair.chosen, pair.rejected, pair.tag, ((None, said),))


def write_judged_pairs(pairs: Sequence[JudgedPair], out: Path, *, form: Form) -> Conversion:
    """Write judged pairs in a form that has room for each judgement; a pair that would not come back is counted.

    Args:
        pairs: The pairs.
        out: File to write, whose suffix says how.
        form: A form with `write_judged`.

    Raises:
        ValueError: The path is not usable, or no pair fits.
    """
    check_writable(out)
    conversion = Conversion(FORMS["ratchet"], form, num_rows=len(pairs), num_pairs=len(pairs), left_out={}, unread={})
    conversion.num_rows_written = write_rows(out, _written(pairs, conversion, form, out))
    return conversion


def _written(pairs: Sequence[JudgedPair], conversion: Conversion, form: Form, out: Path) -> Iterator[dict[str, Any]]:
    assert form.write_judged is not None
    for pair in pairs:
        row = form.write_judged(pair)
        reason = lost_in_parquet(row) if is_parquet(out) else ""
        if not reason and not _comes_back(pair, row, form, as_text=is_csv(out)):
            reason = form.fragile
        if reason:
            conversion.skipped[reason] += 1
        else:
            conversion.num_written += 1
            yield row
    if not conversion.num_written:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in conversion.skipped.items())
        raise ValueError(f"no pair can be written in the form {form.name} ({reasons}): choose another form")


def _comes_back(pair: JudgedPair, row: dict[str, Any], form: Form, *, as_text: bool) -> bool:
    """Return whether the form's own reader gives the pair back; a tool may have its own words for who judged."""
    assert form.read_judged is not None
    values = dict[str, Any](cells(row)) if as_text else row
    try:
        (typed_row,) = typed(Rows("", tuple(values), [Row("", values)], is_text=as_text)).rows
        back = form.read_judged(typed_row)
    except ValueError:
        return False
    return back is not None and _nameless(back) == _nameless(pair)


def _nameless(pair: JudgedPair) -> tuple[Any, ...]:
    return (*pair[:-1], [said for _, said in pair.votes])
