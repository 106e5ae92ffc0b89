"""Run the Python code of a response against the unit tests of the prompt's row, in a sandbox.

What the sandbox stops, with Linux 5.13 or later and user namespaces: the network, reading files other than those of
Python and of the system's libraries, writing files outside a temporary directory, signals to other processes, endless
loops, memory and output without bounds, processes that outlive the test, and your environment variables. What it does
not stop: a response that is written to cheat (it runs in the process that decides whether a test passed), bugs of the
kernel, and whatever this kernel or container does not allow us to restrict, which the log names. It is a fence around
mistakes, not around an attacker.
"""

import contextlib
import functools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from components.functions.library import sandboxed
from components.runtime.children import DIE_WITH_PARENT

FENCE = re.compile(r"```(?:python|py|Python)?[ \t]*\n(.*?)```", re.DOTALL)
START_SECONDS = 60.0
"""Longest time in which a sandbox may start; it does not count as time of a test."""
NAMESPACES = ("--user", "--net", "--pid", "--ipc", "--fork", "--kill-child=SIGKILL")
"""Options of `unshare`: no network, and all processes of a test end with its first one."""


def score(
    response: str,
    tests: str | list[str] | None,
    setup: str = "",
    seconds: float = 10.0,
    memory_mb: int = 512,
    strict: bool = False,
) -> float | None:
    """Return the share of the tests that the code of a response passes, in [0, 1].

    The code is the last fenced block of the response, or the whole response if it has none. Each test runs in a process
    of its own with Python's standard library alone: first `setup`, then the code, then the test.

    Args:
        response: The response.
        tests: The column `tests`: Python code that raises if the code is wrong, such as `assert add(1, 2) == 3`; a list
            is several tests, a text is one. Null or none does not apply.
        setup: Code before the response's, such as imports.
        seconds: Time for all tests of a response together; the tests that are left then have failed.
        memory_mb: Address space of each process in MiB.
        strict: Whether to refuse to run where a part of the sandbox is not available.

    Raises:
        RuntimeError: The sandbox did not start, or `strict` and it is not whole; the verdict is then invalid.
    """
    own = [tests] if isinstance(tests, str) else tests
    if not own:
        return None
    gaps = missing_parts()
    if gaps and strict:
        raise RuntimeError(f"the sandbox is not whole on this machine: {', '.join(gaps)}")
    blocks = FENCE.findall(response)
    code = blocks[-1] if blocks else response
    left, passed = seconds, 0
    for test in own:
        if left <= 0:
            break
        has_passed, spent = _run({"setup": setup, "code": code, "test": test}, left, memory_mb)
        passed, left = passed + has_passed, left - spent
    return passed / len(own)


def _run(program: dict[str, str], seconds: float, memory_mb: int) -> tuple[bool, float]:
    """Run one test and end all of its processes; return whether it passed, and its seconds without the start."""
    with tempfile.TemporaryDirectory(prefix="ratchet-tests-") as directory:
        results, result = os.pipe()
        limits = {"directory": directory, "seconds": seconds, "memory_bytes": memory_mb * 2**20}
        process = subprocess.Popen(
            [*_dying_with_parent(), *_unshare(), sys.executable, "-I", "-S", "-B", sandboxed.__file__, str(result)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(result,),
            env={"HOME": directory, "TMPDIR": directory, "LANG": "C.UTF-8"},
            cwd=directory,
            process_group=0,
        )
        os.close(result)
        try:
            _tell(process, json.dumps(program | limits).encode())
            if _heard(results, START_SECONDS) != sandboxed.READY:
                raise RuntimeError("the sandbox did not start")
            began = time.monotonic()
            has_passed = _heard(results, seconds) == sandboxed.PASSED
            return has_passed, time.monotonic() - began
        finally:
            os.close(results)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _tell(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(message)


def _heard(results: int, seconds: float) -> bytes:
    """Return the next word of a sandbox; empty if it ended, or said none in time."""
    readable, _, _ = select.select([results], [], [], seconds)
    return os.read(results, len(sandboxed.READY)) if readable else b""


def _dying_with_parent() -> tuple[str, ...]:
    """Return the command that makes a program end with this process.

    A function between fork and exec would do it too, but then the kernel refuses the fork of a process that maps much.
    """
    return (sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), str(int(signal.SIGKILL)))


@functools.cache
def _unshare() -> tuple[str, ...]:
    """Return the command that gives a program namespaces of its own; empty if that is not allowed here."""
    path = shutil.which("unshare")
    if path is None:
        return ()
    command = (path, *NAMESPACES, "--")
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else ()


@functools.cache
def missing_parts() -> tuple[str, ...]:
    """Return what the sandbox cannot restrict on this machine, and print it to the log once."""
    gaps = []
    if not _unshare():
        gaps.append("no namespaces (`unshare` is not allowed): processes that leave their group outlive a test")
        gaps += [] if sandboxed.landlock_version() >= sandboxed.WITH_NETWORK else ["the network is open"]
    if not sandboxed.landlock_version():
        gaps.append("no Landlock: the code can read and write the files that you can")
    for gap in gaps:
        print(f"unit_tests: the sandbox is not whole: {gap}")
    return tuple(gaps)
