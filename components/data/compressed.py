"""Files that are packed with gzip or Zstandard, by the last suffix of their names. Knows no rows."""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

PACKED = (".gz", ".zst")
MAX_BYTES = 2 * 2**30
"""Largest text file, expanded: its rows take several times as much memory."""
CHUNK_BYTES = 2**20


def kind_of(name: str) -> str:
    """Return the suffix of a file's name without that of its packing, such as `.jsonl` of `pairs.jsonl.zst`."""
    path = Path(name)
    return Path(path.stem if path.suffix in PACKED else path.name).suffix


def read_whole(path: Path, *, source: str) -> bytes:
    """Return the content of a file, unpacked.

    Args:
        path: The file.
        source: Its name for errors.

    Raises:
        FileNotFoundError: It does not exist.
        ValueError: It is too large or damaged; one line with the remedy.
    """
    content = bytearray()
    try:
        with path.open("rb") as raw, unpacked(raw, path.suffix) as file:
            # A few megabytes may expand to more than there is memory.
            while chunk := file.read(CHUNK_BYTES):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ValueError(
                        f"file {source} has over {MAX_BYTES / 2**30:g} GiB of text: save it as Parquet, or split it"
                    )
        return bytes(content)
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        cause = " ".join(str(error).split())[:200].rstrip(".:")
        raise ValueError(f"file {source} cannot be read ({cause}): write or copy it again") from None


@contextlib.contextmanager
def packing(file: IO[bytes], *, name: str) -> Iterator[Any]:
    """Yield a stream whose bytes are packed into `file` by the suffix of `name`; equal bytes give equal files."""
    suffix = Path(name).suffix
    if suffix == ".gz":
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            yield packed
    elif suffix == ".zst":
        # Closed by Arrow, which would close the file too.
        with pa.CompressedOutputStream(pa.PythonFile(_KeptOpen(file), mode="w"), "zstd") as packed:
            yield packed
    else:
        yield file


class _KeptOpen:
    """A file that another owner closes."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.write, self.flush = file.write, file.flush

    def close(self) -> None:
        self.flush()


@contextlib.contextmanager
def unpacked(file: IO[bytes], suffix: str) -> Iterator[Any]:
    """Yield a stream of what an open file holds, unpacked by the last suffix of its name."""
    if suffix == ".zst":
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as stream:
            yield stream
    elif suffix == ".gz":
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream
    else:
        yield file
