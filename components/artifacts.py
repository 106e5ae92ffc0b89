"""Publish and verify files: atomic stage directories, digests, and the table format.

A stage directory appears complete or not at all. Its MANIFEST.json holds the hashes of all its files and the key of
its inputs. This file, not a database, is the truth about what is done.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from components.records import FORMAT, Artifact, FileRecord, Manifest, NewerVersion, Record, identity

if TYPE_CHECKING:
    # Loaded where tables are read and written: it takes longer to load than everything else in a command that only
    # looks at a campaign.
    import pandas as pd

MANIFEST = "MANIFEST.json"
log = logging.getLogger(__name__)

SomeRecord = TypeVar("SomeRecord", bound=Record)


def digest(value: Any) -> str:
    """Return the sha256 of a record or JSON value, by content.

    Artifacts and models count by their digests, never by their paths.
    """
    return hashlib.sha256(json.dumps(identity(value), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(*parts: int | str) -> int:
    """Derive a seed in [0, 2**31) from campaign seed, round, stage and whatever else separates two draws."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: a reader sees the old content or the new, never a part, even after a crash."""
    temporary = path.with_name(f".{path.name}.{_unique()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk is noticed by a call that knows no name
        raise
    sync(path.parent)


def _unique() -> str:
    """Return a name of this call alone: containers that share a disk often share process ids, and pods host names."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def sync(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Record | dict[str, Any]) -> None:
    """Write a record or a dict as JSON, atomically."""
    plain = value.model_dump(mode="json") if isinstance(value, Record) else value
    write_bytes(path, (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path, *, remedy: str = "restore it, or remove it to have it made anew") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        remedy: What to do if it is damaged, for the error.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it is no JSON object): {remedy}")
    return content


def read_record(kind: type[SomeRecord], path: Path) -> SomeRecord:
    """Read a record from the JSON file that holds it.

    Raises:
        FileNotFoundError: The file does not exist.
        NewerVersion: A newer version wrote it: its format is higher, or it has fields that this version lacks.
        ValueError: It is damaged.
    """
    return as_record(kind, read_json(path), path)


def as_record(kind: type[SomeRecord], content: dict[str, Any], path: Path) -> SomeRecord:
    """Return the record that a JSON file holds; see `read_record`."""
    written = content.get("format", FORMAT)
    if isinstance(written, int) and written > FORMAT:
        raise _newer(path, f"its format is {written}, and this version knows {FORMAT}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
        if all(problem["type"] == "extra_forbidden" for problem in problems):
            unknown = ", ".join(".".join(map(str, problem["loc"])) for problem in problems)
            raise _newer(path, f"this version does not know {unknown}") from None
        raise


def _newer(path: Path, sign: str) -> NewerVersion:
    return NewerVersion(f"{path} was written by a newer version of Ratchet ({sign}): install that version")


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet; equal tables give equal bytes."""
    table.to_parquet(path, index=False, compression="zstd")


def read_table(artifact: Artifact | Path) -> "pd.DataFrame":
    """Read a Parquet table."""
    import pandas as pd

    return pd.read_parquet(artifact.path if isinstance(artifact, Artifact) else artifact)


def artifact(directory: Path, manifest: Manifest, name: str) -> Artifact:
    """Return a reference to one published file, with the hash that its manifest recorded."""
    return Artifact(path=directory / name, digest=manifest.files[name].sha256)


def verified(directory: Path, key: str, *, version: int | None = None) -> Manifest | None:
    """Return a stage's manifest if its key is `key` and every file still has its recorded hash.

    Else log the reason and return None; a stage that is not published yet is not logged.

    Args:
        directory: The stage's directory.
        key: Digest of the inputs.
        version: Version of the stage that would run again; None if it has none.

    Raises:
        NewerVersion: A newer version of Ratchet published the stage, which must not be replaced.
    """
    path = directory / MANIFEST
    try:
        manifest = read_record(Manifest, path)
    except FileNotFoundError:
        return None
    except NewerVersion:
        raise
    except ValueError:
        log.warning("the manifest of %s is damaged; running the stage again", directory)
        return None
    if version is not None and manifest.version > version:
        raise _newer(path, f"it has version {manifest.version} of {manifest.stage}, and this version {version}")
    if manifest.key != key:
        log.warning("%s was made from other inputs; running the stage again", directory)
        return None
    for name, record in manifest.files.items():
        file = directory / name
        if not file.is_file() or file_digest(file) != record.sha256:
            log.warning("%s no longer matches its recorded hash; running the stage again", file)
            return None
    return manifest


@dataclass
class Workspace:
    """Directory in which a stage writes before it is published."""

    path: Path
    peak_memory_bytes: int | None = None
    """Peak memory of the processes that ran the stage; None measures this process."""


@contextlib.contextmanager
def publishing(directory: Path, *, stage: str, version: int, key: str) -> Iterator[Workspace]:
    """Yield a workspace to write in, and publish it under the stage's name when the block ends without an error.

    Files are hashed and synced, the manifest is written last, then the directory is renamed into place and replaces an
    earlier one. After an error or a crash nothing is left that a reader could mistake for a result.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(directory)
    temporary = directory.parent / f".{directory.name}.tmp-{_unique()}"
    temporary.mkdir()
    workspace = Workspace(temporary)
    started = time.monotonic()
    reset_peak_memory()
    try:
        yield workspace
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    inherit_mode(temporary)
    written = sorted(temporary.rglob("*"))
    files = {str(path.relative_to(temporary)): _record(path) for path in written if path.is_file()}
    for path in written:
        if path.is_dir():
            sync(path)
    manifest = Manifest(
        stage=stage,
        version=version,
        key=key,
        files=files,
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory() if workspace.peak_memory_bytes is None else workspace.peak_memory_bytes,
    )
    write_json(temporary / MANIFEST, manifest)
    if directory.exists():
        os.rename(directory, directory.parent / f".{directory.name}.old-{_unique()}")
    os.rename(temporary, directory)
    sync(directory.parent)
    _clear_leftovers(directory)


def inherit_mode(directory: Path) -> None:
    """Give everything below a directory the directory's own permissions; files get no right to execute.

    `mkdir` gave them by the umask or by a default ACL. Libraries that write through a temporary file, such as
    safetensors, leave files that only their owner can read.
    """
    mode = stat.S_IMODE(directory.stat().st_mode)
    for path in directory.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def reset_peak_memory() -> None:
    """Start a new measurement of this process's peak memory, if the kernel allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Return the peak bytes since the last reset: resident memory plus what the accelerator's allocator held."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    resident = int(status["VmHWM"].split()[0]) * 1024
    torch = sys.modules.get("torch")
    return resident + (torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_available() else 0)


def _record(path: Path) -> FileRecord:
    import pyarrow.parquet as pq

    sync(path)
    rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
    return FileRecord(sha256=file_digest(path), num_bytes=path.stat().st_size, rows=rows)


def _clear_leftovers(directory: Path) -> None:
    for pattern in (f".{directory.name}.tmp-*", f".{directory.name}.old-*"):
        for leftover in directory.parent.glob(pattern):
            shutil.rmtree(leftover)
