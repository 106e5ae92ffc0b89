"""Check published files against their manifests. Reads and hashes, repairs nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.artifacts import file_digest
from components.records import FileRecord, Manifest

Condition = Literal["intact", "changed", "gone", "collected"]


@dataclass(frozen=True)
class StoredFile:
    """A file of a stage: its record in the manifest, and its condition now."""

    name: str
    record: FileRecord
    condition: Condition
    """`changed`: its hash differs from the recorded one. `gone`: it is missing and was not removed on purpose."""


def stored_files(
    stage: Path, manifest: Manifest, *, within: str = "", digest_of: Callable[[Path], str] = file_digest
) -> list[StoredFile]:
    """Check the files of a published stage against their recorded hashes.

    Args:
        stage: The stage's directory.
        manifest: The stage's manifest.
        within: Check only names with this prefix; empty checks all files.
        digest_of: Returns a file's sha256.
    """
    records = {name: record for name, record in manifest.files.items() if name.startswith(within)}
    return [
        StoredFile(name, record, file_condition(stage / name, record, digest_of)) for name, record in records.items()
    ]


def file_condition(path: Path, record: FileRecord, digest_of: Callable[[Path], str] = file_digest) -> Condition:
    """Compare one file with its recorded hash."""
    if not path.is_file():
        return "gone"
    return "intact" if path.stat().st_size == record.num_bytes and digest_of(path) == record.sha256 else "changed"


def worst(conditions: Iterable[Condition]) -> Condition:
    """Return the worst of some conditions; intact if there are none."""
    order: tuple[Condition, ...] = ("intact", "collected", "changed", "gone")
    return max(conditions, key=order.index, default="intact")
