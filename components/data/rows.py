"""Rows of a user's data: JSON lines, CSV, Parquet, a saved data set or a hub `datasets` name.

Owns the reading and the errors about files and rows; knows nothing of prompts or pairs. `datasets` is imported only
when a source is neither a JSON nor a Parquet file.
"""

import codecs
import json
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.compressed import PACKED, kind_of, read_whole
from components.data.csv_rows import parse_csv

if TYPE_CHECKING:
    from datasets import Dataset

LOCAL_PREFIXES = (".", "/", "~")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv")
FILE_SUFFIXES = (*JSON_SUFFIXES, *CSV_SUFFIXES, ".parquet")
Wanted = Collection[str] | Callable[[tuple[str, ...]], Collection[str]] | None
KINDS = "a JSONL, CSV or Parquet file, a saved data set or a hub data set"


class Row(NamedTuple):
    """One row with its place in the source."""

    place: str
    """File and line, or data set and row, for errors; both count from 1."""
    values: dict[str, Any]


class Rows(NamedTuple):
    """The rows of one source; never empty."""

    source: str
    columns: tuple[str, ...]
    """All column names of the source, including columns that were not read."""
    rows: list[Row]
    is_text: bool = False
    """Whether all cells are text, as those of a CSV file: numbers too. An empty cell is a missing one."""


def read_rows(source: str, *, split: str, columns: Wanted, revision: str = "") -> Rows:
    """Read a data set.

    Args:
        source: A `.jsonl`, `.json` (lines or one array), `.csv`, `.tsv` or `.parquet` file, a directory that
            `save_to_disk` wrote or that holds data files, or a hub name. JSON and CSV files may be packed (`.gz`,
            `.zst`).
        split: Split to read if the source has splits.
        columns: Columns to read if they exist, or a function that chooses them by the names of all; others are not
            read. None reads all.
        revision: Branch, tag or commit of a data set of the hub; empty is `main`.

    Raises:
        ValueError: The source does not exist, is unreadable or empty, a line is not JSON, or a column or key is there
            twice; one line with the remedy.
    """
    path = Path(source).expanduser()
    suffix = kind_of(path.name)
    if path.is_dir():
        read = _from_dataset(source, saved_dataset(path, split), columns)
    elif suffix == ".parquet" and path.suffix not in PACKED:
        read = _from_parquet(source, path, columns)
    elif suffix in JSON_SUFFIXES:
        read = _from_json(source, path, columns)
    elif suffix in CSV_SUFFIXES:
        read = _from_csv(source, path, columns)
    elif path.exists():
        raise ValueError(
            f"{source} is not a supported kind of file: use JSONL (.jsonl), CSV (.csv), Parquet (.parquet) or a saved "
            "data set"
        )
    elif source.startswith(LOCAL_PREFIXES):
        raise ValueError(f"{path.absolute()} does not exist: name {KINDS}")
    else:
        read = _from_dataset(source, hub_dataset(source, split, revision), columns)
    if not read.rows:
        raise ValueError(f"{source} is empty: name a data set with at least one row")
    return read


def _from_json(source: str, path: Path, columns: Wanted) -> Rows:
    content = _content(source, path).removeprefix(codecs.BOM_UTF8)
    rows, names = [], dict[str, None]()
    for place, value in _json_values(source, content):
        if not isinstance(value, dict):
            raise ValueError(
                f"{place} must be a JSON object, not {type(value).__name__}: write one object such as {{...}} per line"
            )
        names.update(dict.fromkeys(value))
        rows.append(Row(place, {name: value[name] for name in columns_to_read(tuple(value), columns)}))
    return Rows(source, tuple(names), rows)


def _from_csv(source: str, path: Path, columns: Wanted) -> Rows:
    content = _content(source, path).removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not valid UTF-8 at byte {error.start + 1}: save the file as UTF-8") from None
    names, records = parse_csv(text, source=source, delimiter="\t" if kind_of(path.name) == ".tsv" else "")
    refuse_doubled(source, names)
    wanted = set(columns_to_read(names, columns))
    rows = []
    for line, cells in records:
        given = {name: cell for name, cell in zip(names, cells, strict=True) if cell and name in wanted}
        rows.append(Row(f"{source} line {line}", given))
    return Rows(source, names, rows, is_text=True)


def _content(source: str, path: Path) -> bytes:
    try:
        return read_whole(path, source=source)
    except FileNotFoundError:
        raise ValueError(f"file {path.absolute()} does not exist: name {KINDS}") from None


def _json_values(source: str, content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield values with their places: the items if the file is one array, else the lines."""
    if kind_of(source) == ".json" and content.lstrip()[:1] == b"[":
        for number, value in enumerate(parse_json(content, source), 1):
            yield f"{source} item {number}", value
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            place = f"{source} line {number}"
            yield place, parse_json(line, place)


class _Doubled(ValueError):
    """A JSON object has a key twice."""


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(items)
    if len(values) < len(items):
        names = [name for name, _ in items]
        raise _Doubled(next(name for name in names if names.count(name) > 1))
    return values


def parse_json(text: bytes, place: str) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: It is not valid JSON, or has a key twice; names the place.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_object)
        if b"\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise ValueError(f"{place} has half a character (an unpaired \\ud800-\\udfff escape): remove it") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place} is not valid JSON ({error.msg} at character {error.pos + 1}): write one JSON object per line"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} is not valid UTF-8 at byte {error.start + 1}: save the file as UTF-8") from None
    except RecursionError:
        raise ValueError(f"{place} is nested too deeply: remove the nested value") from None
    except _Doubled as error:
        raise ValueError(f"{place} has the key {error} twice in one object: remove one of them") from None
    except ValueError:
        digits = sys.get_int_max_str_digits()
        raise ValueError(f"{place} has an integer of more than {digits} digits: shorten it") from None


def _from_parquet(source: str, path: Path, columns: Wanted) -> Rows:
    try:
        file = pq.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
        refuse_doubled(source, names)
        values = file.read(columns=columns_to_read(names, columns)).to_pylist()
    except FileNotFoundError:
        raise ValueError(f"file {path.absolute()} does not exist: name {KINDS}") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"file {source} cannot be read as Parquet: {cause_of(error)}") from None
    return _arrow_rows(source, names, values)


def _from_dataset(source: str, dataset: "Dataset", columns: Wanted) -> Rows:
    names = tuple(dataset.column_names)
    refuse_doubled(source, names)
    values = dataset.select_columns(columns_to_read(names, columns)).to_list()
    return _arrow_rows(source, names, values)


def columns_to_read(names: tuple[str, ...], columns: Wanted) -> list[str]:
    """Return the columns to read; None reads all."""
    chosen = columns(names) if callable(columns) else columns
    return [name for name in names if chosen is None or name in chosen]


def _arrow_rows(source: str, names: tuple[str, ...], values: list[dict[str, Any]]) -> Rows:
    rows = [{name: without_nulls(value) for name, value in cells.items()} for cells in values]
    return Rows(source, names, [Row(f"{source} row {number}", cells) for number, cells in enumerate(rows, 1)])


def without_nulls(value: Any) -> Any:
    """Return a nested value without the nulls that Arrow puts for keys which only other rows have."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def refuse_doubled(source: str, names: tuple[str, ...]) -> None:
    """Refuse a table that has a column twice."""
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise ValueError(f"{source} has the column {', '.join(doubled)} twice: remove or rename one of them")


def saved_dataset(path: Path, split: str) -> "Dataset":
    """Open a data set that `save_to_disk` wrote, or the data files of a directory."""
    from datasets import Dataset, load_from_disk

    if not any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return hub_dataset(str(path), split, "")
    try:
        loaded = load_from_disk(str(path))
    except Exception as error:
        raise ValueError(
            f"data set {path} cannot be read: {cause_of(error)}: save it again with save_to_disk()"
        ) from None
    if isinstance(loaded, Dataset):
        return loaded
    if split not in loaded:
        raise ValueError(f"data set {path} has no split {split}: use one of {', '.join(loaded)}")
    return loaded[split]


def is_on_hub(source: str) -> bool:
    """Return whether a source can only be a name of the hub: it has no form of a file, and does not exist here."""
    path = Path(source).expanduser()
    return not (source.startswith(LOCAL_PREFIXES) or path.exists() or kind_of(path.name) in FILE_SUFFIXES)


def hub_dataset(source: str, split: str, revision: str) -> "Dataset":
    """Open a data set of the hub, or the data files of a directory."""
    from datasets import Dataset, load_dataset

    try:
        loaded = load_dataset(source, split=split, revision=revision or None)
    except Exception as error:
        cause = cause_of(error.__cause__ or error)
        here = "" if Path(source).exists() else f", and {Path(source).absolute()} does not exist"
        raise ValueError(f"data set {source} (split {split}) cannot be loaded: {cause}{here}: name {KINDS}") from None
    assert isinstance(loaded, Dataset), source
    return loaded


def cause_of(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(str(error).split())[:200].rstrip(".:")
