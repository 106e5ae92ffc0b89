"""Whether a form can hold a pair: by what the pair has, and by what the form's own reader gives back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from components.data.forms.form import ANNOTATIONS, Form, canonical, features, without
from components.data.forms.registry import converted_columns, typed, with_columns
from components.data.row_files import cells
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

TIE = "a tie"
WORDS = {
    "single": "a single response",
    "pair": "two answers",
    "turns": "several turns",
    "system": "a system message",
    "tie": TIE,
}
"""What a message calls a feature whose own name does not fit there."""


class Fit(NamedTuple):
    """A pair in the rows of a form, or the reason why the form cannot hold it."""

    rows: list[dict[str, Any]]
    reason: str = ""
    """What the pair has and the form cannot hold; empty if it fits."""
    lost: frozenset[str] = frozenset()
    """Annotations that the rows do not hold."""


def fitted(pair: SeedPair, target: Form, *, as_text: bool) -> Fit:
    """Return a pair in the rows of a form, after the form's own reader gave the pair back from them.

    A form of single responses takes the two answers of a pair apart, as TRL does.

    Args:
        pair: The pair.
        target: The form.
        as_text: Whether all cells of the rows become text, as in a CSV file.
    """
    if pair.is_single or "pair" in target.holds:
        return _fitted(pair, target, features(pair), as_text=as_text)
    has = features(pair) - {"pair"}
    if "tie" in has:
        return Fit([], TIE)
    singles = (replace(pair, rejected=None), replace(pair, chosen=None))
    sides = [_fitted(single, target, has | {"single"}, as_text=as_text) for single in singles]
    reason = sides[0].reason or sides[1].reason
    return Fit([] if reason else sides[0].rows + sides[1].rows, reason, sides[0].lost)


def _fitted(pair: SeedPair, target: Form, has: set[str], *, as_text: bool) -> Fit:
    beyond = has - target.holds - ANNOTATIONS
    lacks = set() if "tie" in has else target.needs - has
    if beyond or lacks:
        words = [WORDS.get(name, name) for name in sorted(beyond)] + [f"no {name}" for name in sorted(lacks)]
        return Fit([], TIE if "tie" in beyond else " and ".join(words))
    lost = frozenset((has & ANNOTATIONS) - target.holds)
    kept = without(pair, lost)
    # A form without p says a tie by its ratings only.
    try:
        rows = target.write(kept if "p" in target.holds else canonical(kept))
    except ValueError as error:
        return Fit([], str(error))
    return Fit(rows, _misreading(canonical(kept), rows, target, as_text=as_text), lost)


def _misreading(pair: SeedPair, rows: Sequence[dict[str, Any]], target: Form, *, as_text: bool) -> str:
    """Return what in a pair its rows would not give back; empty if they give it back whole."""
    if as_text and any(value == "" for row in rows for value in row.values()):
        return "an empty text, which a CSV cell cannot tell from a missing one"
    try:
        values = [dict[str, Any](cells(row)) for row in rows] if as_text else rows
        names = tuple(dict.fromkeys(name for row in values for name in row))
        read = typed(Rows("", names, [Row(pair.place, row) for row in values], is_text=as_text))
        reading = with_columns(target.read(read, "best_worst"), read, unless=converted_columns(target))
    except ValueError as error:
        return f"what its reader refuses ({str(error).removeprefix(pair.place).lstrip(': ')})"
    # Other columns of a CSV file come back as text.
    pairs = [replace(each, columns=pair.columns) if as_text else each for each in reading.pairs]
    if [canonical(each) for each in pairs] == [pair]:
        return ""
    return target.fragile
