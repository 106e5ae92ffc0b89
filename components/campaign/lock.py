"""Let one flow run at a time work on a campaign: the kernel's lock on a file that names the holder."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO


class CampaignBusy(Exception):
    """Another flow run is working on the campaign; the message names it."""


@contextlib.contextmanager
def locked(directory: Path, **holder: Any) -> Iterator[dict[str, Any]]:
    """Hold the campaign's lock; the kernel releases it when the process ends, however it ends.

    Yields:
        The previous holder's description of itself: its identity, `since` when it worked and, if it ended in order,
        `until` when.

    Raises:
        CampaignBusy: Another process holds the lock. Raised within the block, it leaves no trace of this holder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CampaignBusy(
                f"campaign {directory.name} is already running ({_describe_holder(file.read())})"
            ) from None
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
