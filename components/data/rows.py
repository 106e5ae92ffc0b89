"""Rows of a user's data: JSON lines, Parquet, a saved data set or a hub `datasets` name.

Owns the reading and the errors about files and rows; knows nothing of prompts or pairs. `datasets` is imported only
when a source is neither a JSON nor a Parquet file.
"""

import codecs
import gzip
import json
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from datasets import Dataset

LOCAL_PREFIXES = (".", "/", "~")
MAX_BYTES = 2 * 2**30
"""Largest JSON file, expanded: its rows take several times as much memory."""
CHUNK_BYTES = 2**20
FILE_SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")


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


def read_rows(source: str, *, split: str, columns: Collection[str] | None, revision: str = "") -> Rows:
    """Read a data set.

    Args:
        source: A `.jsonl`, `.json` (lines or one array) or `.parquet` file, a directory that `save_to_disk` wrote or
            that holds data files, or a hub name. JSON files may be gzipped.
        split: Split to read if the source has splits.
        columns: Columns to read if they exist; others are not read. None reads all.
        revision: Branch, tag or commit of a data set of the hub; empty is `main`.

    Raises:
        ValueError: The source does not exist, is unreadable or empty, a line is not JSON, or a column or key is there
            twice; one line with the remedy.
    """
    path = Path(source).expanduser()
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if path.is_dir():
        read = _from_dataset(source, saved_dataset(path, split), columns)
    elif suffix == ".parquet":
        read = _from_parquet(source, path, columns)
    elif suffix in (".jsonl", ".json", ".ndjson"):
        read = _from_json(source, path, columns)
    elif path.exists():
        raise ValueError(
            f"{source} is not a supported kind of file: use JSONL (.jsonl), Parquet (.parquet) or a saved data set"
        )
    elif source.startswith(LOCAL_PREFIXES):
        raise ValueError(
            f"{path.absolute()} does not exist: name a JSONL or Parquet file, a saved data set or a hub data set"
        )
    else:
        read = _from_dataset(source, hub_dataset(source, split, revision), columns)
    if not read.rows:
        raise ValueError(f"{source} is empty: name a data set with at least one row")
    return read


def _from_json(source: str, path: Path, columns: Collection[str] | None) -> Rows:
    content = _content(source, path).removeprefix(codecs.BOM_UTF8)
    rows, names = [], dict[str, None]()
    for place, value in _json_values(source, content):
        if not isinstance(value, dict):
            raise ValueError(
                f"{place} must be a JSON object, not {type(value).__name__}: write one object such as {{...}} per line"
            )
        names.update(dict.fromkeys(value))
        wanted = value if columns is None else columns
        rows.append(Row(place, {name: value[name] for name in wanted if name in value}))
    return Rows(source, tuple(names), rows)


def _content(source: str, path: Path) -> bytes:
    content = bytearray()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # A few megabytes may expand to more than there is memory.
            while chunk := file.read(CHUNK_BYTES):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ValueError(
                        f"file {source} has over {MAX_BYTES / 2**30:g} GiB of text: save it as Parquet, or split it"
                    )
        return bytes(content)
    except FileNotFoundError:
        raise ValueError(
            f"file {path.absolute()} does not exist: name a JSONL or Parquet file, a saved data set or a hub data set"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"file {source} cannot be read ({cause_of(error)}): write or copy it again") from None


def _json_values(source: str, content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield values with their places: the items if the file is one array, else the lines."""
    if source.endswith((".json", ".json.gz")) and content.lstrip()[:1] == b"[":
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
    """Parse a JSON value.

    Raises:
        ValueError: It is not JSON, or an object in it has a key twice; names its place.
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


def _from_parquet(source: str, path: Path, columns: Collection[str] | None) -> Rows:
    try:
        file = pq.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
        refuse_doubled(source, names)
        values = file.read(columns=wanted_columns(names, columns)).to_pylist()
    except FileNotFoundError:
        raise ValueError(
            f"file {path.absolute()} does not exist: name a JSONL or Parquet file, a saved data set or a hub data set"
        ) from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"file {source} cannot be read as Parquet: {cause_of(error)}") from None
    return _arrow_rows(source, names, values)


def _from_dataset(source: str, dataset: "Dataset", columns: Collection[str] | None) -> Rows:
    names = tuple(dataset.column_names)
    refuse_doubled(source, names)
    values = dataset.select_columns(wanted_columns(names, columns)).to_list()
    return _arrow_rows(source, names, values)


def wanted_columns(names: tuple[str, ...], columns: Collection[str] | None) -> list[str]:
    """Return the columns to read; None reads all."""
    return [name for name in names if columns is None or name in columns]


def _arrow_rows(source: str, names: tuple[str, ...], values: list[dict[str, Any]]) -> Rows:
    rows = [{name: without_nulls(value) for name, value in cells.items()} for cells in values]
    return Rows(source, names, [Row(f"{source} row {number}", cells) for number, cells in enumerate(rows, 1)])


def without_nulls(value: Any) -> Any:
    """Return a nested value without the nulls that Arrow puts for keys which only other rows have."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def refuse_doubled(source: str, names: tuple[str, ...]) -> None:
    """Refuse a source that has a column twice."""
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise ValueError(f"{source} has the column {', '.join(doubled)} twice: remove or rename one of them")


def saved_dataset(path: Path, split: str) -> "Dataset":
    """Open a directory that `save_to_disk` wrote or that holds data files."""
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
    suffix = Path(path.name.removesuffix(".gz")).suffix
    return not (source.startswith(LOCAL_PREFIXES) or path.exists() or suffix in FILE_SUFFIXES)


def hub_dataset(source: str, split: str, revision: str) -> "Dataset":
    """Open a data set of the hub, or the data files of a directory."""
    from datasets import Dataset, load_dataset

    try:
        loaded = load_dataset(source, split=split, revision=revision or None)
    except Exception as error:
        remedy = "name a JSONL or Parquet file, a saved data set or a hub data set"
        cause = cause_of(error.__cause__ or error)
        here = "" if Path(source).exists() else f", and {Path(source).absolute()} does not exist"
        raise ValueError(f"data set {source} (split {split}) cannot be loaded: {cause}{here}: {remedy}") from None
    assert isinstance(loaded, Dataset), source
    return loaded


def cause_of(error: BaseException) -> str:
    """Return a library's error as the part of one line that names the cause."""
    return " ".join(str(error).split())[:200].rstrip(".:")
