"""Strikes the process that a fault test starts, at a chosen write; Python imports this module when it starts.

RATCHET_STRIKE names a JSON file: the directory of the campaigns, points or a pattern of them, and the action at the
first of them that is reached. A point is a call that changes a file or makes a change durable, named by the call, its
target, what is published at that time, and which of several such calls it is. The product knows nothing of this.
"""

import functools
import json
import os
import re
import signal
import socket
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

CALLS = ("rename", "replace", "link", "fsync", "mkdir", "unlink", "rmdir")
OFTEN = ("spent.json",)
"""Files that are written as time passes, so that the number of their writes says nothing."""


class Strike:
    """Counts calls, writes the points that it sees into a file, and acts at those that it is told."""

    def __init__(self, runs: str, action: str, points: list[str] | None, log: str, pattern: str = "") -> None:
        self.runs, self.action = os.path.realpath(runs), action
        self.points, self.pattern = set(points or ()), pattern
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.pid, self.counts = os.getpid(), Counter[str]()

    def around(self, call: Any, name: str, target: Any) -> Any:
        """Return a function that passes through the points before and after a call."""

        @functools.wraps(call)
        def struck(*arguments: Any, **options: Any) -> Any:
            path = self.within(target(*arguments, **options)) if os.getpid() == self.pid else None
            if path is None:
                return call(*arguments, **options)
            point = self.named(name, path)
            self.reach(f"before {point}")
            result = call(*arguments, **options)
            self.reach(f"after {point}")
            return result

        return struck

    def within(self, path: str) -> str | None:
        """Return a path relative to the directory of the campaigns, without what differs each time; None outside."""
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not path.startswith(f"{self.runs}/"):
            return None
        plain = re.sub(rf"{re.escape(socket.gethostname())}-\d+-[0-9a-f]{{8}}", "*", path.removeprefix(f"{self.runs}/"))
        return re.sub(r"[0-9a-f]{32}", "*", plain)

    def named(self, name: str, path: str) -> str:
        """Return the name of a call."""
        published = sorted(Path(self.runs).glob("*/round-*/[!.]*/MANIFEST.json"), key=lambda each: each.stat().st_mtime)
        last = "/".join(published[-1].parts[-3:-1]) if published else "nothing"
        place = f"{name} {path} behind {last}"
        self.counts[place] += 1
        return place if path.endswith(OFTEN) else f"{place} ({self.counts[place]})"

    def reach(self, point: str) -> None:
        """Note a point, and act if it is one of those to be struck."""
        os.write(self.log, f"{point}\n".encode())
        if point in self.points or fnmatchcase(point, self.pattern):
            action, self.action = self.action, "none"
            ACTIONS[action](self)

    def fill(self) -> None:
        """Fill the disk to its last byte."""
        ballast = os.open(f"{self.runs}/ballast", os.O_WRONLY | os.O_CREAT)
        for size in (2**20, 2**12, 1):
            try:
                while os.write(ballast, b"\0" * size):
                    pass
            except OSError:
                continue
        os.close(ballast)

    def jump(self) -> None:
        """Set the clock that Python programs read back by a year."""
        import time

        now = time.time
        time.time = lambda: now() - 365 * 86400

    def hold(self) -> None:
        """Stay at this point until a signal comes, for half a minute."""
        import time

        time.sleep(30)


ACTIONS = {
    "kill": lambda strike: os.kill(strike.pid, signal.SIGKILL),
    "term": lambda strike: os.kill(strike.pid, signal.SIGTERM),
    "fill": Strike.fill,
    "jump": Strike.jump,
    "hold": Strike.hold,
    "none": lambda strike: None,
}


def target_of(argument: Any, directory: int | None) -> str:
    """Return the path that a call is about, of a descriptor too."""
    if isinstance(argument, int):
        return os.readlink(f"/proc/self/fd/{argument}")
    path = os.fsdecode(argument)
    return path if directory is None else os.path.join(os.readlink(f"/proc/self/fd/{directory}"), path)


def first_argument(path: Any, *_: Any, dir_fd: int | None = None, **__: Any) -> str:
    """Return the target of a call about one path."""
    return target_of(path, dir_fd)


def second_argument(_: Any, path: Any, *__: Any, dst_dir_fd: int | None = None, **___: Any) -> str:
    """Return the target of a call that gives a file a name."""
    return target_of(path, dst_dir_fd)


def count_commits(strike: Strike) -> None:
    """Make each commit of a SQLite database a point."""
    import sqlite3
    import sqlite3.dbapi2

    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        """A connection whose commits are counted."""

        def commit(self) -> None:
            """Commit, if there is something to commit."""
            if not self.in_transaction:
                return super().commit()
            return strike.around(super().commit, "commit", lambda: self.execute("PRAGMA database_list").fetchone()[2])()

    counted = functools.partial(connect, factory=Connection)
    sqlite3.connect = sqlite3.dbapi2.connect = counted  # type: ignore[assignment]


def begin(settings: dict[str, Any]) -> None:
    """Wrap the calls of this process; processes that it starts are left alone."""
    strike = Strike(**settings)
    count_commits(strike)
    for name in CALLS:
        target = second_argument if name in ("rename", "replace", "link") else first_argument
        setattr(os, name, strike.around(getattr(os, name), name, target))


if "RATCHET_STRIKE" in os.environ:
    told = json.loads(Path(os.environ["RATCHET_STRIKE"]).read_text())
    # A worker starts the program that counts by way of others.
    if told.pop("program", "") in Path("/proc/self/cmdline").read_text():
        del os.environ["RATCHET_STRIKE"]
        begin(told)
