"""A source read as pairs in batches gives the pairs of the whole file, in every form, at the rows they come from."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.data.forms.fit import fitted
from components.data.forms.form import Form, canonical
from components.data.forms.pair_rows import read_pair
from components.data.forms.pair_source import PairSource
from components.data.forms.registry import FORMS
from components.data.preference_file import load_seed_pairs
from components.data.raw_batch import JOINED, NoPair, Read, Unreadable
from components.data.row_batches import RowSource
from components.data.row_files import is_csv, write_rows
from components.data.rows import Row
from components.data.seed_pair import SeedPair
from tests.data.forms.test_round_trip import HELD, fits


def source_of(path: Path) -> PairSource:
    return PairSource(RowSource(str(path), split="train"), carried=("source",))


def read_in_batches(source: PairSource, *, size: int) -> list[Read]:
    return [row for batch in source.batches(size=size, columns=None) for row in batch.rows()]


def pairs_of(read: Sequence[Read]) -> list[SeedPair]:
    pairs = [read_pair(row, [*row.values]) for row in read if isinstance(row, Row)]
    return [canonical(replace(pair, columns={})) for pair in pairs if pair is not None]


def written(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json", "a.csv.gz"])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
def test_pairs_in_batches_are_those_of_the_whole_file(form: Form, size: int, kind: str, tmp_path: Path) -> None:
    pairs = [each for name in sorted(form.holds & HELD.keys()) for each in fits(HELD[name], form)]
    path = tmp_path / kind
    write_rows(path, [row for each in pairs for row in fitted(each, form, as_text=is_csv(path)).rows])
    source = source_of(path)
    whole = load_seed_pairs(str(path), split="train").pairs
    read = read_in_batches(source, size=size)
    assert pairs_of(read) == [canonical(pair) for pair in whole]
    assert [row.place for row in read if isinstance(row, Row)] == [pair.place for pair in whole]
    wanted = {0, len(read) - 1}
    assert list(source.take(wanted, size=size)) == [(index, read[index]) for index in sorted(wanted)]


def rated(prompt: str, response: str, helpfulness: float | None) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "source": "s"}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
def test_two_rows_of_a_pair_stay_together_however_batches_fall(size: int, tmp_path: Path) -> None:
    rows = [rated("a", "one", 1), rated("b", "two", 0), rated("b", "three", 3)]
    rows += [rated("c", f"c{number}", number) for number in range(4)] + [rated("d", "x", None), rated("d", "y", 2)]
    read = read_in_batches(source_of(written(tmp_path / "a.jsonl", [*rows, "{broken", rows[0]])), size=size)
    kinds = [type(row).__name__ for row in read]
    assert kinds == [
        "NoPair",
        "Row",
        "NoPair",
        "Row",
        "NoPair",
        "Row",
        "NoPair",
        "NoPair",
        "NoPair",
        "Unreadable",
        "NoPair",
    ]
    assert [row.reason for row in read if isinstance(row, NoPair)] == [
        "a prompt with one response",
        JOINED,
        JOINED,
        JOINED,
        "a response without helpfulness",
        JOINED,
        "a prompt with one response",
    ]
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in pairs_of(read)] == [
        ("three", "two", 3.0),
        ("c1", "c0", 1.0),
        ("c3", "c2", 1.0),
    ]
    assert isinstance(read[1], Row)
    assert read[1].values["source"] == "s"


def completions(*scores: dict[str, Any]) -> dict[str, Any]:
    return {"instruction": "c#", "completions": [{"response": f"r{n}", **score} for n, score in enumerate(scores)]}


def test_overall_scores_are_read_only_if_no_row_of_the_file_has_others(tmp_path: Path) -> None:
    overall = completions({"overall_score": 10.0}, {"overall_score": 2.0})
    fine = completions({"fine-grained_score": 1.0}, {"fine-grained_score": 2.0})
    path = written(tmp_path / "a.jsonl", [overall] * 50 + [fine])
    read = read_in_batches(source_of(path), size=10)
    assert [type(row).__name__ for row in read] == ["NoPair"] * 50 + ["Row"]
    assert pairs_of(read) == [canonical(pair) for pair in load_seed_pairs(str(path), split="train").pairs]
    assert len(pairs_of(read_in_batches(source_of(written(tmp_path / "b.jsonl", [overall] * 50)), size=10))) == 50


def test_malformed_row_of_a_form_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    good = completions({"fine-grained_score": 1.0}, {"fine-grained_score": 2.0})
    path = written(tmp_path / "a.jsonl", [good, {**good, "completions": 3}, good])
    first, broken, last = read_in_batches(source_of(path), size=10)
    assert isinstance(broken, Unreadable)
    assert (broken.place, broken.detail) == (f"{path} line 2", "cannot be read in the form ultrafeedback")
    assert broken.reason.startswith("completions must be a list of objects")
    assert isinstance(first, Row)
    assert isinstance(last, Row)
