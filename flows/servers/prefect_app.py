"""Prefect's server as we start it: it refuses foreign hosts, and one at a time prepares a database.

uvicorn calls `create_app`. Prefect checks the key itself, see `flows.servers.key`.
"""

import contextlib
import fcntl
import os
import sys
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from pathlib import Path
from typing import Any

from components.runtime.addresses import LOOPBACK, LOOPBACK_NAMES

HOSTS = "RATCHET_PREFECT_HOSTS"
"""Names besides this machine's own, comma-separated, under which others may ask for the server."""
REFUSAL = f"foreign host: use {LOOPBACK}, localhost or a name in {HOSTS}\n".encode()
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def prefect_command(port: int, *, log_level: str) -> list[str]:
    """Return the command that runs the server on a port of the loopback interface."""
    sources, factory = str(Path(__file__).parents[2]), f"{__name__}:create_app"
    application = ["--app-dir", sources, "--factory", factory, "--lifespan", "on"]
    address = ["--host", LOOPBACK, "--port", str(port), "--log-level", log_level]
    return [sys.executable, "-m", "uvicorn", *application, *address]


def create_app() -> App:
    """Return Prefect's server. Waits while another one that was started by us prepares the same PREFECT_HOME."""
    from prefect.server.api.server import create_app as create_prefect_app
    from prefect.settings import PREFECT_HOME

    named = [name.strip().lower() for name in os.environ.get(HOSTS, "").split(",")]
    hosts = frozenset([*LOOPBACK_NAMES, *filter(None, named)])
    return GuardedServer(create_prefect_app(), hosts=hosts, lock=_locked(PREFECT_HOME.value()))


class GuardedServer:
    """Answer 403 to requests that name another host, and hold a lock until the server has started.

    A web page whose host name leads to this machine (DNS rebinding) counts in the browser as a page of this server, but
    the browser still names that host.
    """

    def __init__(self, app: App, *, hosts: Collection[str], lock: int) -> None:
        """Take over an application.

        Args:
            app: Prefect's server.
            hosts: Names that requests may ask for, in lower case and without ports.
            lock: Open file whose closing releases the lock.
        """
        self._app, self._hosts, self._lock = app, hosts, lock

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._releasing(send))
        elif self._is_asked_for(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send(
                {
                    "type": "http.response.body",
                    "body": REFUSAL,
                }
            )

    def _is_asked_for(self, scope: Message) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and _without_port(hosts[0]) in self._hosts

    def _releasing(self, send: Send) -> Send:
        async def release(message: Message) -> None:
            if message["type"] in ("lifespan.startup.complete", "lifespan.startup.failed"):
                os.close(self._lock)
            # uvicorn logs the cause, and Prefect has by then silenced its loggers.
            sys.stderr.write(message.get("message", ""))
            await send(message)

        return release


def _without_port(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.lower().partition(":")[0]


def _locked(home: Path) -> int:
    """Return an open file of a Prefect home that this process alone has locked."""
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / ".ratchet-start", os.O_WRONLY | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
