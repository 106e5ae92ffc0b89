"""The key of the Prefect servers that we start.

Every user of a machine reaches its loopback interface, and whoever reaches Prefect's API can read its secrets and run
commands as its worker.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.records import ServiceFailed
from components.runtime.addresses import without_password
from components.runtime.secret_file import ensure_secret, read_secret


@dataclass(frozen=True)
class PrefectApi:
    """A Prefect server's API, as its clients need it."""

    url: str
    key: str | None = field(default=None, repr=False)
    """The key of a server of our own; None leaves the user's own PREFECT_API_AUTH_STRING as it is."""

    def environment(self) -> dict[str, str]:
        """Return the variables with which a child process reaches the server.

        On a command line, every user of the machine could read the key.
        """
        return {"PREFECT_API_URL": self.url} | ({} if self.key is None else {"PREFECT_API_AUTH_STRING": self.key})

    def settings(self) -> dict[Any, Any]:
        """Return the same as settings of Prefect in this process."""
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

        return {PREFECT_API_URL: self.url} | ({} if self.key is None else {PREFECT_API_AUTH_STRING: self.key})

    def is_at(self, url: str) -> bool:
        """Return whether an address is this server's."""
        return url.rstrip("/").replace("//localhost:", "//127.0.0.1:") == self.url


def server_environment(port: int, key: str) -> dict[str, str]:
    """Return the environment of a Prefect server on a port of the loopback interface.

    The server answers only requests with the key, and only its own pages may read the answers.
    """
    api = PrefectApi(f"http://127.0.0.1:{port}/api", key)
    return {
        **api.environment(),
        "PREFECT_SERVER_API_AUTH_STRING": key,
        # Two names of one setting; Prefect takes the first that is set.
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_UI_API_URL": api.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }


@contextlib.contextmanager
def explaining_refusal(url: str) -> Iterator[None]:
    """Turn a server's refusal of our key, or its silence, into one line.

    Raises:
        ValueError: The server wants another key.
        ServiceFailed: The server cannot be reached.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except httpx.TransportError as error:
        # Other services are asked within the block too.
        if not _asked(error).startswith(url.rstrip("/")):
            raise
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ServiceFailed(
            f"the Prefect server at {without_password(url)} cannot be reached ({cause}): check PREFECT_API_URL"
        ) from None
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 401:
            raise
        raise ValueError(
            f"the Prefect server at {without_password(url)} refuses access: set PREFECT_API_AUTH_STRING to its key"
        ) from None


def _asked(error: Any) -> str:
    """Return the address that a failed request asked."""
    try:
        return str(error.request.url)
    except RuntimeError:
        return ""


def new_key() -> str:
    """Return a random key of the form that Prefect's page asks for, `user:password`."""
    return f"admin:{secrets.token_urlsafe(32)}"


def key_file(directory: Path) -> Path:
    """Return the path of the file with the background servers' key."""
    return directory / "prefect-key"


def ensure_key(directory: Path) -> str:
    """Return the key in a directory; create directory and key, readable by their owner alone, if they do not exist.

    Raises:
        ValueError: The key cannot be used.
    """
    ensure_private(directory)
    return ensure_secret(key_file(directory), new_key)


def ensure_private(directory: Path) -> None:
    """Create a directory if it does not exist, and close it to other users.

    Raises:
        ValueError: It belongs to another user.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except PermissionError:
        raise ValueError(
            f"{directory} belongs to another user: set RATCHET_RUNS to a directory of your own for servers of your own"
        ) from None


def read_key(directory: Path) -> str | None:
    """Return the key in a directory, or None if there is none.

    Raises:
        ValueError: The key is empty, or other users can read it.
    """
    return read_secret(key_file(directory))
