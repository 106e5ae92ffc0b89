"""The process that runs the code of one response and one test: restricts itself, then runs them.

Runs as a script, with the standard library alone. Knows no judge.
"""

import contextlib
import ctypes
import json
import os
import resource
import sys
from typing import Any

READY, PASSED = b"ready.", b"passed"
"""What it writes before the code runs, and after the test has passed; of one length, so that each is read whole."""
FILE_BYTES = 64 * 2**20
OPEN_FILES, PROCESSES = 64, 32
CREATE, ADD_RULE, RESTRICT = 444, 445, 446
"""System calls of Landlock, the same on every architecture."""
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
BITS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Number of kinds of access to files that each version of Landlock restricts."""
WITH_NETWORK, WITH_SCOPES = 4, 6
"""Versions from which on it restricts TCP, and signals and abstract sockets."""
READABLE = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/dev/zero")


class RulesetAttr(ctypes.Structure):
    """What a set of rules is about."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class PathAttr(ctypes.Structure):
    """What is allowed below a path."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock_version() -> int:
    """Return the version of Landlock in this kernel; 0 if it has none."""
    return max(0, int(ctypes.CDLL(None).syscall(CREATE, None, 0, 1)))


def restrict_files(directory: str) -> None:
    """Let this process and its children read Python's files and write below a directory, and nothing else.

    Without Landlock nothing is restricted.
    """
    version = landlock_version()
    if not version:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    everything = (1 << BITS_OF_VERSION[min(version, max(BITS_OF_VERSION))]) - 1
    attr = RulesetAttr(everything, 3 if version >= WITH_NETWORK else 0, 3 if version >= WITH_SCOPES else 0)
    size = 24 if version >= WITH_SCOPES else 16 if version >= WITH_NETWORK else 8
    rules = libc.syscall(CREATE, ctypes.byref(attr), size, 0)
    _refuse_error(rules)
    reading = EXECUTE | READ_FILE | READ_DIR
    allowed = dict.fromkeys((sys.base_prefix, sys.prefix, os.path.dirname(os.__file__), *READABLE), reading)
    for path, access in (allowed | {"/dev/null": READ_FILE | WRITE_FILE, directory: everything}).items():
        _allow(libc, rules, path, access & everything)
    _refuse_error(libc.prctl(38, 1, 0, 0, 0))
    _refuse_error(libc.syscall(RESTRICT, rules, 0))
    os.close(rules)


def _allow(libc: Any, rules: int, path: str, access: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            access &= EXECUTE | WRITE_FILE | READ_FILE
        attr = PathAttr(access, parent)
        _refuse_error(libc.syscall(ADD_RULE, rules, 1, ctypes.byref(attr), 0))
        os.close(parent)


def _refuse_error(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock")


def limit(seconds: float, memory_bytes: int) -> None:
    """Limit what this process and each of its children may use."""
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def main(result: int) -> None:
    """Read a program from standard input, run it, and say so if its test passed."""
    os.set_inheritable(result, False)
    program = json.load(sys.stdin)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    limit(program["seconds"], program["memory_bytes"])
    restrict_files(program["directory"])
    os.write(result, READY)
    names: dict[str, Any] = {"__name__": "solution"}
    for part in ("setup", "code", "test"):
        exec(compile(program[part], f"<{part}>", "exec"), names)
    os.write(result, PASSED)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
