"""One flow run at a time on a campaign: the kernel's lock on a file that says who holds it."""

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
    """Another flow run works on the campaign; the message names it."""


@contextlib.contextmanager
def locked(directory: Path, **holder: Any) -> Iterator[dict[str, Any]]:
    """Holds the campaign's lock; the kernel lets go of it when the process ends, however it ends.

    Yields:
        What the holder before wrote about itself: who it was, `since` when and, if it ended in order, `until` when it
        worked.

    Raises:
        CampaignBusy: Somebody else holds it. Raised within the block, it leaves no trace of this holder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CampaignBusy(f"campaign {directory.name} is worked on by {_describe_holder(file.read())}") from None
        file.seek(0)
        before = _holder(file.read())
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now(), **holder}
        _replace(file, mine)
        try:
            yield before
        except CampaignBusy:
            _replace(file, before)
            raise
        except BaseException:
            _replace(file, mine | {"until": _now()})
            raise
        _replace(file, mine | {"until": _now()})


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
        or "another process that is just starting"
    )
