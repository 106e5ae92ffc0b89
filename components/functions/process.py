"""The caller's side of the process that runs the user's functions: start, call, limits, restart.

A call that takes too long, needs too much memory or ends the process gives a reason instead of scores, and the process
is started anew for the next one. It ends with this one, however this one ends.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil

from components.config import CallLimits, FunctionConfig
from components.functions import worker
from components.functions.source import find_source
from components.runtime.children import child_process

LOAD_SECONDS = 300.0
"""Longest time in which the functions' modules may be imported; a machine-learning library takes a while."""
GRACE_SECONDS = 5.0
"""Time beyond the limit that the process has to end an async call by itself."""
WATCH_SECONDS = 0.1
"""Time between two looks at the process's memory."""
GIB = 2**30


class FunctionFailed(Exception):
    """The process did not answer a message; the text says why."""


@dataclass(frozen=True)
class Description:
    """How a function wants to be called."""

    form: str
    """`batch`, `group` or `single`, as in `worker.FORMS`."""
    is_async: bool
    takes_all: bool
    """Whether it has `**kwargs`."""
    names: tuple[str, ...]
    """Names of its parameters."""
    required: tuple[str, ...]
    """Names of the parameters without a default."""


class Score(NamedTuple):
    """What a function says of a response."""

    value: float | None
    """The score; None if the function does not apply to the response, or failed."""
    error: str = ""
    """Why there is no score; empty if the function does not apply."""


class FunctionProcess(contextlib.AbstractContextManager["FunctionProcess"]):
    """The process that runs some functions; it is started when it is first needed."""

    def __init__(self, functions: Sequence[FunctionConfig], limits: CallLimits, *, log: Path | None) -> None:
        """Find the functions' files without running them.

        Args:
            functions: The functions.
            limits: What a call may take.
            log: File that what they print is appended to; None discards it.

        Raises:
            ValueError: A file or module does not exist.
        """
        self._functions, self._limits, self._log = tuple(functions), limits, log
        sources = [find_source(function.function) for function in functions]
        self._specs = [
            {"path": str(source.path), "root": str(source.root), "is_file": source.is_file}
            | {"module": source.module, "name": source.name}
            for source in sources
        ]
        self._stack = contextlib.ExitStack()
        self._child: subprocess.Popen[str] | None = None
        self._buffer = b""
        self._descriptions: list[Description] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def describe(self) -> list[Description]:
        """Load the functions and return how they want to be called.

        Raises:
            ValueError: One cannot be loaded or called; one line with the remedy.
        """
        if self._child is None or self._descriptions is None:
            self._start()
        assert self._descriptions is not None
        return self._descriptions

    def call(
        self, number: int, calls: Sequence[dict[str, Any]], expected: Sequence[int | None]
    ) -> tuple[list[list[Score]], bool]:
        """Make calls of a function: several at the same time if it is async, else one.

        Args:
            number: Index of the function.
            calls: Keyword arguments of each call.
            expected: Number of scores that each call must return in a list; None for one score alone.

        Returns:
            The scores of each call, and whether the process survived them. If it did not, each score says why.

        Raises:
            ValueError: The functions could not be loaded again.
        """
        self.describe()
        seconds = self._limits.time_limit_seconds
        request = {"function": number, "calls": list(calls), "expected": list(expected), "seconds": seconds}
        grace = GRACE_SECONDS if self.describe()[number].is_async else 0.0
        try:
            answers = self._exchange(request, seconds=seconds + grace, limit=seconds)
        except FunctionFailed as failure:
            self._stop()
            return [[Score(None, str(failure))] * (1 if count is None else count) for count in expected], False
        return [[Score(each.get("score"), each.get("error", "")) for each in scores] for scores in answers], True

    def _start(self) -> None:
        own, theirs = socket.socketpair()
        self._stack.callback(own.close)
        with theirs:
            output: Any = subprocess.DEVNULL
            if self._log is not None:
                self._log.parent.mkdir(parents=True, exist_ok=True)
                output = self._stack.enter_context(self._log.open("ab"))
            self._child = self._stack.enter_context(
                child_process(
                    [sys.executable, "-P", "-u", worker.__file__, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            )
        self._socket, self._buffer = own, b""
        first = {
            "functions": self._specs,
            "memory_bytes": int(self._limits.memory_limit_gb * GIB),
            "places": [str(Path(__file__).parents[2])],
        }
        names = [function.function for function in self._functions]
        try:
            described = self._exchange(first, seconds=LOAD_SECONDS, limit=LOAD_SECONDS)
        except FunctionFailed as failure:
            self._stop()
            raise ValueError(f"function {', '.join(names)} cannot be loaded: {failure}") from None
        for name, answer in zip(names, described, strict=True):
            if "error" in answer:
                self._stop()
                raise ValueError(f"function {name} cannot be used: {answer['error']}")
        self._descriptions = [
            Description(**answer | {key: tuple(answer[key]) for key in ("names", "required")}) for answer in described
        ]

    def _stop(self) -> None:
        """End the process and its children at once."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
        self._child = None
        self._stack.close()

    def _exchange(self, message: dict[str, Any], *, seconds: float, limit: float) -> Any:
        """Send a message and return the answer, both one line of JSON.

        Raises:
            FunctionFailed: The process ended, or was ended because it exceeded a limit.
        """
        assert self._child is not None
        deadline = time.monotonic() + seconds
        unsent = json.dumps(message).encode() + b"\n"
        self._socket.settimeout(WATCH_SECONDS)
        try:
            while unsent:
                with contextlib.suppress(TimeoutError):
                    unsent = unsent[self._socket.send(unsent[:65536]) :]
                self._watch(deadline, limit)
            while b"\n" not in self._buffer:
                with contextlib.suppress(TimeoutError):
                    received = self._socket.recv(65536)
                    if not received:
                        raise FunctionFailed(self._ending())
                    self._buffer += received
                self._watch(deadline, limit)
        except ConnectionError:
            raise FunctionFailed(self._ending()) from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _watch(self, deadline: float, limit: float) -> None:
        """Raise if the process has used up its time or memory."""
        if time.monotonic() > deadline:
            raise FunctionFailed(f"it was killed after {limit:g} s (time_limit_seconds)")
        assert self._child is not None
        used = resident_bytes(self._child.pid)
        if used > self._limits.memory_limit_gb * GIB:
            raise FunctionFailed(
                f"it was killed at {used / GIB:.1f} GiB of memory (memory_limit_gb = {self._limits.memory_limit_gb:g})"
            )

    def _ending(self) -> str:
        """Return how the process ended by itself."""
        assert self._child is not None
        try:
            code = self._child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited ({code})"


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its children; 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for each in family:
        with contextlib.suppress(psutil.Error):
            total += each.memory_info().rss
    return total
