"""Whether published files are still what their manifests say. Reads and hashes, repairs nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.artifacts import file_digest
from components.records import FileRecord, Manifest

Condition = Literal["intact", "changed", "gone", "collected"]


@dataclass(frozen=True)
class StoredFile:
    """A file of a stage: what its manifest recorded, and what became of it."""

    name: str
    record: FileRecord
    condition: Condition
    """`changed`: its hash is another than the recorded one. `gone`: it is not there, and was not removed on purpose."""


def stored_files(stage: Path, manifest: Manifest, *, within: str = "") -> list[StoredFile]:
    """Checks the files of a published stage against their recorded hashes.

    Args:
        stage: The stage's directory.
        manifest: What it published.
        within: Folder of the stage that is looked at; all of the stage if it is empty.
    """
    wanted = {name: record for name, record in manifest.files.items() if name.startswith(within)}
    return [StoredFile(name, record, file_condition(stage / name, record)) for name, record in wanted.items()]


def file_condition(path: Path, record: FileRecord) -> Condition:
    """Compares one file with its recorded hash."""
    if not path.is_file():
        return "gone"
    return "intact" if path.stat().st_size == record.num_bytes and file_digest(path) == record.sha256 else "changed"


def worst(conditions: Iterable[Condition]) -> Condition:
    """The condition of a whole by those of its parts; intact if there are none."""
    order: tuple[Condition, ...] = ("intact", "collected", "changed", "gone")
    return max(conditions, key=order.index, default="intact")
