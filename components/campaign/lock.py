"""Let one process at a time work on a directory: the kernel's lock on a file that names the holder."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TextIO

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK})
"""Errors of `flock` on a file system without locks, such as Lustre that was mounted without `-o flock`."""


class Busy(Exception):
    """Another process is working on a directory; the message names the directory and the process."""


class CampaignBusy(Busy):
    """Another flow run is working on the campaign; the message names it."""


@contextlib.contextmanager
def locked(directory: Path, **holder: Any) -> Iterator[dict[str, Any]]:
    """Hold the campaign's lock; the kernel releases it when the process ends, however it ends.

    Yields:
        The previous holder's description of itself: its identity, `since` when it worked and, if it ended in order,
        `until` when.

    Raises:
        CampaignBusy: Another process holds the lock. Raised within the block, it leaves no trace of this holder.
        ValueError: The file system has no locks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with _held(directory / ".lock", holder) as before:
            yield before
    except _Held as held:
        raise CampaignBusy(f"campaign {directory.name} is already running ({held})") from None


@contextlib.contextmanager
def writing(out: Path, **holder: Any) -> Iterator[None]:
    """Hold the lock of a directory that a command writes and replaces; it lies beside the directory.

    Raises:
        Busy: Another process is writing the directory.
        ValueError: The file system has no locks.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _held(out.with_name(f".{out.name}.lock"), holder):
            yield
    except _Held as held:
        raise Busy(f"{out} is being written by another process ({held})") from None


class _Held(Exception):
    """Another process holds the lock; the message is its description of itself."""


@contextlib.contextmanager
def _held(path: Path, holder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with path.open("a+") as file:
        if not take(file):
            file.seek(0)
            raise _Held(_describe_holder(file.read()))
        file.seek(0)
        before = _holder(file.read())
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now(), **holder}
        _replace(file, own)
        try:
            yield before
        except CampaignBusy:
            _replace(file, before)
            raise
        except BaseException:
            _replace(file, own | {"until": _now()})
            raise
        _replace(file, own | {"until": _now()})


def take(file: IO[str]) -> bool:
    """Take the lock of an open file; return False if somebody else has it.

    Raises:
        ValueError: The file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise ValueError(
            f"{file.name} cannot be locked ({error.strerror}): mount its file system with flock (Lustre: -o flock), or "
            "work on another disk"
        ) from None
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _replace(file: TextIO, holder: dict[str, Any]) -> None:
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()


def _holder(content: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except ValueError:
        return {}


def _describe_holder(content: str) -> str:
    return (
        ", ".join(f"{name} {value}" for name, value in _holder(content).items())
        or "another process has just started it"
    )
