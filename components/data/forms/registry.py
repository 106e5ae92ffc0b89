"""All forms, and the form of a source. Knows no format of a file."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from components.data.columns import read_columns
from components.data.forms.argilla import ARGILLA
from components.data.forms.form import Form, Reading
from components.data.forms.helpsteer import HELPSTEER2, HELPSTEER2_PREFERENCE, HELPSTEER3
from components.data.forms.hh import HH
from components.data.forms.label_studio import LABEL_STUDIO
from components.data.forms.openai import OPENAI
from components.data.forms.pair_rows import COLUMNS as PAIR_COLUMNS
from components.data.forms.pair_rows import SCORE_COLUMNS, read_pair_rows
from components.data.forms.sharegpt import SHAREGPT
from components.data.forms.trl import KTO, RATCHET, TRL, TRL_IMPLICIT, TRL_TEXT
from components.data.forms.ultrafeedback import ULTRAFEEDBACK
from components.data.rows import Row, Rows

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        ULTRAFEEDBACK,
        HELPSTEER2,
        HELPSTEER2_PREFERENCE,
        HELPSTEER3,
        OPENAI,
        ARGILLA,
        LABEL_STUDIO,
        SHAREGPT,
        HH,
        RATCHET,
        KTO,
        TRL_IMPLICIT,
        TRL_TEXT,
        TRL,
    )
}
"""By name; the first one that matches is the form of a source."""
READ_COLUMNS = frozenset(name for form in FORMS.values() for name in form.columns) | frozenset(PAIR_COLUMNS)
RATINGS = ("helpfulness", "preference_strength", "overall_preference")
NUMBERS = frozenset(("p", "margin", *RATINGS, *SCORE_COLUMNS))
"""Columns whose cells in a CSV file are numbers."""
TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def wanted_columns(names: Collection[str]) -> Collection[str]:
    """Return the columns that the form of these columns may read: not the ratings that pairs carry along."""
    return PAIR_COLUMNS if _is_paired(names) else READ_COLUMNS


def _is_paired(names: Collection[str]) -> bool:
    """Return whether answers are chosen and rejected already, or labelled, beside a prompt or with it."""
    has = set(names)
    with_prompt = {"prompt", "chosen", "rejected"} <= has or {"completion", "label"} <= has
    return with_prompt or ({"chosen", "rejected"} <= has and "conversations" not in has)


def form_of(read: Rows) -> Form | None:
    """Return the form of a source; None if it has none that is known.

    Answers that are chosen and rejected already go before ratings that the rows carry along.
    """
    is_paired = _is_paired(read.columns)
    forms = [form for form in FORMS.values() if form.read is read_pair_rows or not is_paired]
    return next((form for form in forms if form.matches(read)), None)


def typed(read: Rows) -> Rows:
    """Return rows whose numbers and labels are such, and whose empty cells are absent, if all cells were text."""
    if not read.is_text:
        return read
    rows = [
        Row(row.place, {name: _typed(name, cell) for name, cell in row.values.items() if cell}) for row in read.rows
    ]
    return read._replace(rows=rows, is_text=False)


def converted_columns(form: Form) -> frozenset[str]:
    """Return the columns that a conversion reads whole; of two scores only the difference is read."""
    return form.columns - SCORE_COLUMNS


def with_columns(reading: Reading, read: Rows, *, unless: frozenset[str]) -> Reading:
    """Return pairs with the other columns of the rows that they come from, those but `unless`."""
    others: Mapping[str, dict[str, Any]] = dict(
        zip((row.place for row in read.rows), read_columns(read.source, read.rows, without=unless), strict=True)
    )
    return reading._replace(pairs=[replace(pair, columns=others[pair.place]) for pair in reading.pairs])


def _typed(name: str, cell: str) -> Any:
    if name == "label":
        return TRUTHS.get(cell.strip().lower(), cell)
    if name not in NUMBERS:
        return cell
    try:
        number = float(cell)
    except ValueError:
        return cell
    return cell if math.isnan(number) else number
