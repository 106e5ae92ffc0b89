"""ASGI middleware before every page of ours: foreign hosts and large bodies are refused, and headers bind the browser.

Knows no framework and no page.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Only our own files: no inline scripts or styles, and nothing from elsewhere, whatever a text smuggles in."""
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    # Addresses of personal links must not leave the page.
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"cache-control": b"no-store",
}
"""Sent with each response that does not set them itself."""
TOO_LARGE = "the request is too large\n"


class Guard:
    """Pass on only requests for known hosts with bodies of a bounded size, and add `HEADERS` to the responses.

    A web page whose host name leads to this machine (DNS rebinding) counts in the browser as a page of this server, but
    the browser still names that host.
    """

    def __init__(self, app: App, *, hosts: Collection[str], max_body_bytes: int) -> None:
        """Take over an application.

        Args:
            app: The pages.
            hosts: Names that requests may ask for, without ports.
            max_body_bytes: Largest body of a request.
        """
        self._app, self._max_body_bytes = app, max_body_bytes
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif not self._is_asked_for(scope):
            await _refuse(send, 421, "unknown host: use the address that the server printed, or start it with --url\n")
        elif _declared_bytes(scope) > self._max_body_bytes:
            await _refuse(send, 413, TOO_LARGE)
        else:
            await self._pass_on(scope, receive, send)

    def _is_asked_for(self, scope: Message) -> bool:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and _without_port(hosts[0]) in self._hosts

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """Read the whole body, which may declare no size, before the application sees the request."""
        messages: list[Message] = []
        num_bytes = 0
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())
            num_bytes += len(messages[-1].get("body", b""))
            if num_bytes > self._max_body_bytes:
                await _refuse(send, 413, TOO_LARGE)
                return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        async def add_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                others = [(name, value) for name, value in HEADERS.items() if name not in own]
                message = {**message, "headers": [*message["headers"], *others]}
            await send(message)

        await self._app(scope, replay, add_headers)


async def _refuse(send: Send, status: int, line: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": line.encode()})


def _declared_bytes(scope: Message) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0


def _without_port(host: str) -> str:
    host = host.lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
