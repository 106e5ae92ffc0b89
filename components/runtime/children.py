"""Run child processes that end with their parent, however it ends, and read their output line by line."""

import contextlib
import fcntl
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

GRACE_SECONDS = 20
OUTPUT, LOCK = "ratchet-output-", "lock"
NEW_SECONDS = 60
"""Age below which a directory of pipes counts as in use: it may not be locked yet."""
AGENT = "RATCHET_AGENT"
"""Variable with the process id of the command that `child_process` starts, for that command's own children."""
LINE_LIMIT = 10_000
"""Largest number of characters of a child's line in one log record; Prefect drops longer records."""


@contextlib.contextmanager
def output_pipes(ranks: int) -> Iterator[list[str]]:
    """Yield paths of named pipes, one per rank: in a shared pipe, ranks would write into each other's lines.

    The directory is locked, so that a later call finds and removes those of processes that were killed.
    """
    _remove_abandoned()
    with tempfile.TemporaryDirectory(prefix=OUTPUT) as directory, open(os.path.join(directory, LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        paths = [os.path.join(directory, str(rank)) for rank in range(ranks)]
        for path in paths:
            os.mkfifo(path)
        yield paths


def _remove_abandoned() -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{OUTPUT}*"):
        with contextlib.suppress(OSError):  # another user's, or gone by now
            if time.time() - directory.stat().st_mtime < NEW_SECONDS:
                continue
            with (directory / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory)


def output_lines(child: subprocess.Popen[str], pipes: list[str]) -> Iterator[str]:
    """Yield the lines that the child and its ranks print, until the child has closed its output."""
    assert child.stdout is not None
    lines: queue.SimpleQueue[tuple[IO[str], str]] = queue.SimpleQueue()

    def read(file: IO[str]) -> None:
        with file:
            for line in iter(partial(file.readline, LINE_LIMIT), ""):
                lines.put((file, line))
        lines.put((file, ""))

    files = [child.stdout, *map(_opened, pipes)]
    # A pipe ends when no process can write to it any more. It is held open here until the child has ended, because its
    # ranks may never open it.
    with contextlib.ExitStack() as held:
        for path in pipes:
            held.callback(os.close, os.open(path, os.O_WRONLY))
        for file in files:
            threading.Thread(target=read, args=(file,), daemon=True).start()
        while files:
            file, line = lines.get()
            if line:
                yield line
                continue
            files.remove(file)
            if file is child.stdout:
                held.close()


def _opened(pipe: str) -> IO[str]:
    """Open a named pipe for reading without waiting for its writer; reads from it block."""
    number = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(number, True)
    return os.fdopen(number, errors="replace")


@contextlib.contextmanager
def child_process(
    command: list[str], *, death_signal: int = signal.SIGKILL, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a command that gets `death_signal` when this process dies, and end it at the end of the block."""
    wrapper = [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), str(int(death_signal)), *command]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    child = subprocess.Popen(wrapper, text=True, errors="replace", **options)
    try:
        yield child
    finally:
        end(child)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def end(child: "subprocess.Popen[str]") -> None:
    """End a child by SIGTERM, or by SIGKILL if it is still there after `GRACE_SECONDS`."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# Runs in the child before the command: the kernel then kills it with its parent, even if SIGKILL ends the parent.
DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.environ["RATCHET_AGENT"] = str(os.getpid())
os.execvp(sys.argv[3], sys.argv[3:])
"""


# Runs between this process and a server that has children of its own, and ends them all.
END_THE_WHOLE_GROUP = """
import os, signal, subprocess, sys, time
child, asked = None, False
def end(*_):
    global asked
    asked = True
    if child is None: return
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try: os.killpg(child.pid, number)
            except ProcessLookupError: sys.exit(1)
            # Not child.poll(): the wait below, which this interrupts, holds its lock, and a zombie keeps the group
            # alive.
            try: os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError: pass
            time.sleep(0.1)
    sys.exit(1)
# Before the child exists: a signal in between would else leave it behind.
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
child = subprocess.Popen(sys.argv[1:], process_group=0)
if asked: end()
sys.exit(child.wait())
"""


@contextlib.contextmanager
def server_process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a server; end it and all its children when the block is left or this process dies, however it dies."""
    keeper = [sys.executable, "-c", END_THE_WHOLE_GROUP, *command]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    with child_process(keeper, death_signal=signal.SIGTERM, **options) as child:
        yield child
