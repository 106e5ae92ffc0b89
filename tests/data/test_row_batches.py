"""Reading rows in batches gives the rows of `read_rows`, in every form, with the same places."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from components.data.raw_batch import Unreadable
from components.data.row_batches import RowSource
from components.data.row_files import write_rows
from components.data.rows import Row, read_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": f"Question {n}?", "chosen": [{"role": "assistant", "content": f"é {n}"}], "n": n} for n in range(7)
]
# Arrow fills in a null for a key that only other rows have.
ROWS[3]["chosen"] = [{"role": "assistant", "content": "a", "name": "b"}]


def jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    return path


def packed(path: Path) -> Path:
    path.write_bytes(gzip.compress(codecs.BOM_UTF8 + "\n".join(map(json.dumps, ROWS)).encode()))
    return path


def array(path: Path) -> Path:
    path.write_bytes(codecs.BOM_UTF8 + json.dumps(ROWS).encode())
    return path


def parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def saved(path: Path) -> Path:
    Dataset.from_list(ROWS).save_to_disk(str(path))
    return path


def zstandard(path: Path) -> Path:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    return path


def table_of_text(path: Path) -> Path:
    write_rows(path, ROWS)
    return path


FORMS = {
    "a.csv": table_of_text,
    "a.tsv.gz": table_of_text,
    "a.jsonl.zst": zstandard,
    "a.jsonl": jsonl,
    "a.jsonl.gz": packed,
    "a.json": array,
    "a.parquet": parquet,
    "saved": saved,
}


@pytest.mark.parametrize("name", FORMS)
def test_batches_hold_the_rows_and_places_of_the_whole(name: str, tmp_path: Path) -> None:
    path = FORMS[name](tmp_path / name)
    source = RowSource(str(path), split="train")
    batches = list(source.batches(size=3, columns=None))
    assert [(batch.first, len(batch)) for batch in batches] == [(0, 3), (3, 3), (6, 1)]
    assert [row for batch in batches for row in batch.rows()] == read_rows(str(path), split="train", columns=None).rows


@pytest.mark.parametrize("name", FORMS)
def test_some_rows_are_read_again_with_all_their_columns(name: str, tmp_path: Path) -> None:
    path = FORMS[name](tmp_path / name)
    source = RowSource(str(path), split="train")
    rows = read_rows(str(path), split="train", columns=None).rows
    assert list(source.take([6, 1, 3], size=2)) == [(index, rows[index]) for index in (1, 3, 6)]


def test_columns_that_are_not_wanted_are_not_read_from_a_table(tmp_path: Path) -> None:
    source = RowSource(str(parquet(tmp_path / "a.parquet")), split="train")
    (batch,) = source.batches(size=10, columns=["prompt", "p"])
    assert batch.rows()[0] == Row(f"{tmp_path}/a.parquet row 1", {"prompt": "Question 0?"})


def test_lines_that_are_no_rows_are_named_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"prompt": 1, "prompt": 2}\n[1]\n{"a": "\\ud800"}\n{"a": NaN}\n')
    (batch,) = RowSource(str(path), split="train").batches(size=10, columns=None)
    first, doubled, listed, half, nan = batch.rows()
    assert first == Row(f"{path} line 1", {"a": 1})
    assert [type(row) for row in (doubled, listed, half)] == [Unreadable] * 3
    assert isinstance(doubled, Unreadable)
    assert doubled.reason == "has the key prompt twice in one object: remove one of them"
    assert isinstance(nan, Row)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", b"\x1f\x8b broken", "cannot be read"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
        ("a.jsonl.zst", b"broken", "cannot be read"),
        ("a.csv", b"a,b\n1\n", "line 2 has 1 cells, but the header has 2"),
        ("a.csv", b"a\n\xff\n", "is not valid UTF-8"),
        ("a.csv", b"a,a\n1,2\n", "has the column a twice"),
        ("a.txt", b"a", "is not a supported kind of file"),
        ("nowhere/a.jsonl", None, "does not exist"),
    ],
)
def test_source_that_cannot_be_read_is_refused_in_one_line(
    name: str, content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as raised:
        list(RowSource(str(path), split="train").batches(size=10, columns=None))
    assert "\n" not in str(raised.value)
