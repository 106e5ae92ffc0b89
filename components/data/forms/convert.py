"""Converts a preference data set from one form into another one.

Each pair is written only if the form's own reader gives it back; what a form cannot hold is counted or refused, never
dropped in silence.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.data.conversations import warn_of_doubts
from components.data.forms.fit import TIE, fitted
from components.data.forms.form import Form
from components.data.forms.pair_rows import COLUMNS as PAIR_COLUMNS
from components.data.forms.pair_rows import read_pair_rows
from components.data.forms.rated import Choice
from components.data.forms.registry import FORMS, converted_columns, form_of, typed, with_columns
from components.data.forms.unread import unread_keys
from components.data.parquet_rows import lost_in_parquet
from components.data.preference_file import refuse_no_pairs
from components.data.row_files import check_writable, is_csv, is_parquet, write_rows
from components.data.rows import Rows, read_rows
from components.data.seed_pair import SeedPair
from components.runtime import progress

Unfit = Literal["refuse", "skip"]
REPORT_EVERY = 500


@dataclass
class Conversion:
    """What a conversion read and wrote, and what it left behind."""

    source: Form
    target: Form
    num_rows: int
    num_pairs: int
    left_out: dict[str, int]
    """Number of rows that gave no pair, by reason."""
    unread: dict[str, int]
    """Number of messages by key that no form reads, such as `name` of a user's message."""
    num_written: int = 0
    num_rows_written: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Number of pairs by annotation that the target does not hold."""
    lost_columns: tuple[str, ...] = ()
    """Names of the other columns, which the target does not hold."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of pairs that were not written, by what the target does not hold."""


def convert(
    source: str,
    out: Path,
    *,
    target: str,
    source_form: str | None = None,
    split: str = "train",
    choice: Choice = "best_worst",
    unfit: Unfit = "refuse",
) -> Conversion:
    """Read a preference data set and write its pairs in another form.

    Args:
        source: A source that `rows.read_rows` reads.
        out: File to write, whose suffix says how: JSON lines, a JSON array or CSV, packed or not, or Parquet.
        target: Name of the form to write.
        source_form: Name of the form to read; None recognises it by the columns.
        split: Split of a data set that has splits.
        choice: Pairs of a prompt with several rated answers.
        unfit: What happens to a pair that the form cannot hold: refuse the data set, or leave the pair out.

    Raises:
        ValueError: The source or the path is not usable, a form is not known, or a pair does not fit; one line.
    """
    to = named_form(target)
    check_writable(out)
    path = Path(source).expanduser()
    if out.exists() and path.exists() and out.samefile(path):
        raise ValueError(f"{out} is the file that is read: name another file to write")
    read = typed(read_rows(source, split=split, columns=None))
    form = recognised(read) if source_form is None else named_form(source_form)
    if form.read is read_pair_rows:
        warn_of_doubts(read, prompt="prompt", used=PAIR_COLUMNS)
    reading = with_columns(form.read(read, choice), read, unless=converted_columns(form))
    refuse_no_pairs(read, reading)
    left_out = {"chosen and rejected differ before the last answer": len(reading.split_earlier), **reading.left_out}
    conversion = Conversion(
        form,
        to,
        num_rows=len(read.rows),
        num_pairs=len(reading.pairs),
        left_out={reason: count for reason, count in left_out.items() if count},
        unread=unread_keys(read, converted_columns(form)),
    )
    conversion.num_rows_written = write_rows(out, _written(reading.pairs, conversion, unfit, out))
    if "columns" in conversion.lost:
        conversion.lost_columns = tuple(name for name in read.columns if name not in converted_columns(form))
    return conversion


def named_form(name: str) -> Form:
    """Return the form of a name.

    Raises:
        ValueError: There is none.
    """
    if name not in FORMS:
        raise ValueError(f"{name} is not a form: use one of {', '.join(FORMS)}")
    return FORMS[name]


def recognised(read: Rows) -> Form:
    """Return the form of a source.

    Raises:
        ValueError: It is not known.
    """
    form = form_of(read)
    if form is None:
        raise ValueError(
            f"{read.source}: its form is not known by its columns ({', '.join(read.columns)}): rename them, or name "
            f"the form with --from, one of {', '.join(FORMS)}"
        )
    return form


def _written(pairs: list[SeedPair], conversion: Conversion, unfit: Unfit, out: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of all pairs that fit, and count the others.

    Raises:
        ValueError: A pair does not fit, and such pairs are refused, or none is left.
    """
    for done, pair in enumerate(pairs, 1):
        fit = fitted(pair, conversion.target, as_text=is_csv(out))
        if is_parquet(out) and not fit.reason:
            fit = fit._replace(reason=next(filter(None, map(lost_in_parquet, fit.rows)), ""))
        if fit.reason and unfit == "refuse" and fit.reason != TIE:
            raise ValueError(
                f"{pair.place} has {fit.reason}, which the form {conversion.target.name} cannot hold: choose another "
                "form, or leave such pairs out with --unfit skip"
            )
        if fit.reason:
            conversion.skipped[fit.reason] += 1
        else:
            conversion.num_written += 1
            conversion.lost.update(fit.lost)
            yield from fit.rows
        if done % REPORT_EVERY == 0 or done == len(pairs):
            progress.report(done, len(pairs), "pairs")
    if not conversion.num_written:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in conversion.skipped.items())
        raise ValueError(
            f"no pair can be written in the form {conversion.target.name} ({reasons}): choose another form"
        )
