"""Digests of files that were read before, so that a start reads again only what may have changed since."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.artifacts import file_digest, read_json, write_json

KNOWN = ".digests.json"


class KnownDigests:
    """Digests by the files that they are of.

    Size, inode, and times of change are the fast check: a program that rewrites a file in place changes the time of its
    inode, which it cannot set back.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the known digests.

        Args:
            path: File in which they are kept; None keeps none, and reads every file.
        """
        self._path = path
        self._known = _read(path)
        self._changed = False

    def of_file(self, path: Path) -> str:
        """Return the sha256 of a file."""
        return self.of_files([path], lambda: file_digest(path), what="sha256")

    def of_files(self, files: Sequence[Path], compute: Callable[[], str], *, what: str) -> str:
        """Return the digest that `compute` makes of some files, computed only if one of them may have changed.

        Args:
            files: The files, which exist.
            compute: Reads them.
            what: Name of the digest, and everything else that it depends on.
        """
        name = "|".join([*map(str, files), what])
        # Before they are read: what changes while they are read is then another state than the one that is kept.
        state = [_state(file.stat()) for file in files]
        known = self._known.get(name)
        if known is not None and known["state"] == state:
            return str(known["digest"])
        digest = compute()
        self._known[name] = {"state": state, "digest": digest}
        self._changed = True
        return digest

    def keep(self) -> None:
        """Write the digests of all files that still exist."""
        if self._path is None or not self._changed or not self._path.parent.is_dir():
            return
        kept = {name: entry for name, entry in self._known.items() if Path(name.partition("|")[0]).exists()}
        with contextlib.suppress(OSError):  # it only saves time
            write_json(self._path, kept)
        self._changed = False


def _state(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        return read_json(path)
    except ValueError:  # it only saves time
        return {}
