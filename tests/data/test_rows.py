"""Reading rows: every form gives the same rows, and every fault is one clear line."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from components.data import compressed
from components.data.rows import read_rows

VALUES = [{"prompt": "one", "more": 1}, {"prompt": "zwö", "more": 2}]


def lines(values: list[dict]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def write_form(form: str, folder: Path) -> Path:
    path = folder / form
    if form.endswith(".jsonl"):
        path.write_bytes(b"\xef\xbb\xbf" + lines(VALUES))
    elif form.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(lines(VALUES))
    elif form.endswith(".gz"):
        path.write_bytes(gzip.compress(lines(VALUES), mtime=0))
    elif form.endswith("array.json"):
        mark = b"\xef\xbb\xbf" if form == "marked_array.json" else b""
        path.write_bytes(mark + json.dumps(VALUES, indent=2).encode())
    elif form == "lines.json":
        path.write_bytes(lines(VALUES))
    elif form.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(VALUES), path)
    elif form == "saved":
        Dataset.from_list(VALUES).save_to_disk(str(path))
    elif form == "saved_splits":
        DatasetDict({"train": Dataset.from_list(VALUES), "other": Dataset.from_list(VALUES[:1])}).save_to_disk(
            str(path)
        )
    return path


@pytest.mark.parametrize(
    "form",
    [
        "a.jsonl",
        "a.jsonl.gz",
        "a.ndjson.zst",
        "array.json",
        "marked_array.json",
        "lines.json",
        "a.parquet",
        "saved",
        "saved_splits",
    ],
)
def test_rows_of_every_form_are_the_same(form: str, tmp_path: Path) -> None:
    read = read_rows(str(write_form(form, tmp_path)), split="train", columns=["prompt"])
    assert [row.values for row in read.rows] == [{"prompt": "one"}, {"prompt": "zwö"}]
    assert read.columns == ("prompt", "more")


def test_rows_of_a_folder_of_data_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(VALUES), folder / "train.parquet")
    assert [row.values["prompt"] for row in read_rows(str(folder), split="train", columns=["prompt"]).rows] == [
        "one",
        "zwö",
    ]


def test_rows_of_a_folder_whose_files_have_a_key_twice_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a", "prompt": "b"}\n')
    with pytest.raises(ValueError, match=r"cannot be loaded: .*prompt.* twice"):
        read_rows(str(folder), split="train", columns=["prompt"])


def test_rows_with_blank_lines_keep_the_numbers_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"prompt": "one"}\n\n{"prompt": "two"}\n')
    assert [row.place for row in read_rows(str(path), split="train", columns=["prompt"]).rows] == [
        f"{path} line 2",
        f"{path} line 4",
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a\u2028b\u2029c\x85d"}',
        '{"prompt": "a\\u2028b\\u2029c\\u0085d"}',
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_end_at_line_feeds_and_at_no_other_separator(line: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(f"{line}{end}{line}{end}".encode())
    read = read_rows(str(path), split="train", columns=["prompt"])
    assert [row.values["prompt"] for row in read.rows] == ["a\u2028b\u2029c\x85d"] * 2


DAMAGED = bytearray(gzip.compress(lines([{"prompt": f"{number} {number**7}"} for number in range(200)]), mtime=0))
DAMAGED[200:400] = b"\xff" * 200


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", bytes(DAMAGED), r"cannot be read \(Error -3 while decompressing"),
        ("a.jsonl.gz", gzip.compress(lines(VALUES), mtime=0)[:-9], r"cannot be read \("),
        (
            "a.jsonl",
            b'{"prompt": "one"}\n{"prompt": ' + b"9" * 5000 + b"}\n",
            "line 2 has an integer of more than 4300",
        ),
        ("a.jsonl", b'{"prompt": ' + b"[" * 100000 + b"]" * 100000 + b"}\n", "line 1 is nested too deeply"),
        ("a.jsonl", b'{"prompt": "one", "prompt": "two"}\n', "line 1 has the key prompt twice in one object"),
        ("a.jsonl", b'{"prompt": [{"role": "user", "role": "x"}]}\n', "line 1 has the key role twice in one object"),
        ("a.jsonl", b'{"prompt": "a\x00b"}\n', "line 1 is not valid JSON"),
        ("a.jsonl", '{"prompt": "one"}'.encode("utf-16"), "line 1 is not valid UTF-8"),
        ("a.jsonl.zst", b"(\xb5/\xfd", r"cannot be read \(Truncated compressed stream"),
        ("a.jsonl.zst", b"no zst", r"cannot be read \("),
        ("a.jsonl", b'{"prompt": "one"}\n{"prompt": two}\n', "line 2 is not valid JSON"),
        ("a.jsonl", b'{"prompt": "one"}\n["two"]\n', "line 2 must be a JSON object, not list"),
        ("a.jsonl", b'{"prompt": "one"}\n{"prompt": "\xff"}\n', "line 2 is not valid UTF-8"),
        ("a.jsonl", b'{"prompt": "\\ud83d"}\n', "line 1 has half a character"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.json", b'[{"prompt": 1}, 2]', "item 2 must be a JSON object, not int"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.parquet", b"no parquet", "cannot be read as Parquet"),
        ("a.xlsx", b"PK", "is not a supported kind of file"),
        ("a.parquet.gz", b"no gzip", "is not a supported kind of file"),
        ("a.csv", b"prompt,more\none\n", "a.csv line 2 has 1 cells, but the header has 2"),
        ("a.csv", b'prompt,more\n"one,2\n', "a.csv line 2 is not valid CSV .*close each double quote"),
        ("a.csv", b"prompt,prompt\none,two\n", "a.csv has the column prompt twice"),
        ("a.csv", b"prompt\n\xff\n", "a.csv is not valid UTF-8 at byte 8"),
        ("a.csv", b"prompt\n", "a.csv is empty"),
        ("a.csv", b"", "a.csv is empty"),
    ],
)
def test_rows_of_a_faulty_file_say_what_and_where(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        read_rows(str(path), split="train", columns=["prompt"])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_of_more_text_than_the_limit_are_refused_before_they_fill_the_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gzip file of some megabytes expands to gigabytes, and took the machine's memory before any line was read."""
    text = b'{"prompt": "' + b" " * 2**26 + b'"}\n'
    (tmp_path / name).write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    monkeypatch.setattr(compressed, "MAX_BYTES", 2**21)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"has over 0.00195312 GiB of text: save it as Parquet, or split it"):
            read_rows(str(tmp_path / name), split="train", columns=["prompt"])
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_rows_of_a_column_that_is_there_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["prompt", "chosen", "chosen"]), path)
    with pytest.raises(ValueError, match=r"a.parquet has the column chosen twice: remove or rename one of them"):
        read_rows(str(path), split="train", columns=["prompt", "chosen"])


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "missing"])
def test_rows_of_a_missing_file_say_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} does not exist: name a"):
        read_rows(str(tmp_path / name), split="train", columns=["prompt"])


def test_rows_of_an_unreachable_hub_name_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"data set nobody/nothing \(split train\) cannot be loaded") as caught:
        read_rows("nobody/nothing", split="train", columns=["prompt"])
    assert "\n" not in str(caught.value)


def test_rows_of_an_unknown_split_name_the_splits(tmp_path: Path) -> None:
    path = write_form("saved_splits", tmp_path)
    with pytest.raises(ValueError, match="has no split test: use one of train, other"):
        read_rows(str(path), split="test", columns=["prompt"])


TEXT_ROWS = [{"prompt": 'one, two; "three"\nfour', "more": "1"}, {"prompt": "zwö"}]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.csv.zst"])
@pytest.mark.parametrize(("mark", "delimiter", "end"), [(b"", ",", "\n"), (b"\xef\xbb\xbf", ";", "\r\n")])
def test_rows_of_csv_are_text_with_quotes_and_line_breaks(
    name: str, mark: bytes, delimiter: str, end: str, tmp_path: Path
) -> None:
    """A spreadsheet writes a byte order mark, semicolons and \\r\\n; each took the first column's name or its text."""
    between = "\t" if ".tsv" in name else delimiter
    records = [["prompt", "more"], ['"one, two; ""three""\nfour"', "1"], ["zwö", ""]]
    content = mark + end.join([between.join(record) for record in records] + ["", ""]).encode()
    path = tmp_path / name
    with path.open("wb") as file, compressed.packing(file, name=name) as packed:
        packed.write(content)
    read = read_rows(str(path), split="train", columns=None)
    assert [row.values for row in read.rows] == TEXT_ROWS
    assert [row.place for row in read.rows] == [f"{path} line 3", f"{path} line 4"]
    assert read.columns == ("prompt", "more")
    assert read.is_text


def test_rows_of_csv_hold_cells_above_the_csv_module_s_own_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,more\n{'x' * 200_000},2\n")
    (row,) = read_rows(str(path), split="train", columns=["prompt"]).rows
    assert row.values == {"prompt": "x" * 200_000}
