"""Secrets in files that only their owner can read."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def ensure_secret(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in a file; write what `make` returns into it, readable by its owner alone, if it is missing.

    Raises:
        ValueError: The secret cannot be used.
        PermissionError: It belongs to another user.
    """
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{make()}\n")
    secret = read_secret(path)
    assert secret is not None
    return secret


def read_secret(path: Path) -> str | None:
    """Return the secret in a file, or None if there is no file.

    Raises:
        ValueError: The file is empty, or other users can read it.
        PermissionError: It belongs to another user.
    """
    try:
        secret, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise ValueError(
            f"{path} can be read by other users (mode {mode & 0o777:04o}): delete it and restart the servers, "
            "with RATCHET_RUNS on a file system that keeps permissions"
        )
    if not secret:
        raise ValueError(f"{path} is empty: delete it and restart the servers")
    return secret
