"""The key of the Prefect servers that we start.

Every user of a machine reaches its loopback interface, and whoever may speak to Prefect reads its secrets and runs
commands as its worker.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PrefectApi:
    """A Prefect server's API, as its clients need it."""

    url: str
    key: str | None = field(default=None, repr=False)
    """The key of a server of our own; None leaves the user's own PREFECT_API_AUTH_STRING as it is."""

    def environment(self) -> dict[str, str]:
        """Return what a child process needs to reach the server. A command line would show the key to every user."""
        return {"PREFECT_API_URL": self.url} | ({} if self.key is None else {"PREFECT_API_AUTH_STRING": self.key})

    def settings(self) -> dict[Any, Any]:
        """Return the same as Prefect's settings of this process."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

        return {PREFECT_API_URL: self.url} | ({} if self.key is None else {PREFECT_API_AUTH_STRING: self.key})

    def is_at(self, url: str) -> bool:
        """Return whether an address is this server's."""
        return url.rstrip("/").replace("//localhost:", "//127.0.0.1:") == self.url


def server_environment(port: int, key: str) -> dict[str, str]:
    """Return the environment of a Prefect server on a port of the loopback interface.

    It answers only requests with the key, and lets only its own pages read what it answers.
    """
    api = PrefectApi(f"http://127.0.0.1:{port}/api", key)
    return {
        **api.environment(),
        "PREFECT_SERVER_API_AUTH_STRING": key,
        # Both names of one setting, of which Prefect takes the first that is set.
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_UI_API_URL": api.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }


@contextlib.contextmanager
def explaining_refusal(url: str) -> Iterator[None]:
    """Turn a server's refusal of our key into one line.

    Raises:
        ValueError: The server wants another key.
    """
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 401:
            raise
        raise ValueError(
            f"the Prefect server at {url} refuses access: set PREFECT_API_AUTH_STRING to its key"
        ) from None


def new_key() -> str:
    """Return a random key of the form that Prefect's page asks for, `user:password`."""
    return f"admin:{secrets.token_urlsafe(32)}"


def key_file(directory: Path) -> Path:
    """Return where the key of the servers that stay lies."""
    return directory / "prefect-key"


def ensure_key(directory: Path) -> str:
    """Return the key in a directory. What is not there yet, key or directory, is made for its owner alone.

    Raises:
        ValueError: The key cannot be used.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(key_file(directory), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{new_key()}\n")
    key = read_key(directory)
    assert key is not None
    return key


def read_key(directory: Path) -> str | None:
    """Return the key in a directory, or None if there is none.

    Raises:
        ValueError: The key is empty, or other users can read it.
    """
    path = key_file(directory)
    try:
        key, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
    except FileNotFoundError:
        return None
    if mode & 0o077:
        shown = f"{path} is open to other users (mode {mode & 0o777:04o})"
        raise ValueError(
            f"{shown}: remove it and restart the servers, with RATCHET_RUNS on a disk that keeps permissions"
        )
    if not key:
        raise ValueError(f"{path} is empty: remove it and restart the servers")
    return key
