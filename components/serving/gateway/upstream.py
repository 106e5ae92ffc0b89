"""The way to an engine: a request goes on as it is, the response comes back as it is, part by part.

A client that leaves ends the engine's work on its request.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from components.serving.gateway.sent_answers import Recorder

log = logging.getLogger(__name__)

OWN_HEADERS = frozenset(
    {
        *("host", "authorization", "cookie", "content-length", "accept-encoding", "origin", "referer", "x-csrf-token"),
        # Engines take it for the id of the completion, which a client must not choose.
        "x-request-id",
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "expect"),
    }
)
"""Headers of a request that end at the gateway."""
ENGINE_HEADERS = frozenset({"connection", "keep-alive", "transfer-encoding", "server", "date", "content-length"})
"""Headers of a response that end at the gateway."""
TIMEOUT = httpx.Timeout(None, connect=10.0)
"""An answer takes as long as it takes."""
MOST_BYTES = 64 * 2**20
"""Of a request's body."""


@dataclass(frozen=True)
class Engine:
    """A model that is served on a port of the loopback interface."""

    address: str
    key: str
    round: int
    model_digest: str
    arm: str | None
    """`champion` or `challenger` while a canary runs."""


def error_body(message: str, code: str) -> bytes:
    """Return an error in the form of the OpenAI API."""
    return json.dumps({"error": {"message": message, "code": code}}).encode()


class PassedOn:
    """The response to a request that goes on to an engine."""

    def __init__(
        self, request: Request, body: bytes, *, client: httpx.AsyncClient, engine: Engine, recorder: Recorder | None
    ) -> None:
        self._recorder, self._client = recorder, client
        headers = [(name, value) for name, value in request.headers.items() if name not in OWN_HEADERS]
        headers += [("authorization", f"Bearer {engine.key}"), ("accept-encoding", "identity")]
        url = httpx.URL(engine.address + request.url.path, query=request.url.query.encode() or None)
        self._request = client.build_request(request.method, url, headers=headers, content=body, timeout=TIMEOUT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the engine's response, unless the client leaves before its end."""
        await until_client_leaves(receive, lambda: self._transfer(send))

    async def _transfer(self, send: Send) -> None:
        try:
            response = await self._client.send(self._request, stream=True)
        except httpx.TransportError as error:
            body = error_body(f"the model's server cannot be reached ({type(error).__name__})", "engine_unreachable")
            await _send_whole(send, 502, [(b"content-type", b"application/json")], body)
            return
        try:
            await self._send(response, send)
        finally:
            await response.aclose()

    async def _send(self, response: httpx.Response, send: Send) -> None:
        headers = [(name, value) for name, value in response.headers.raw if name.decode().lower() not in ENGINE_HEADERS]
        if "text/event-stream" not in response.headers.get("content-type", ""):
            try:
                body = await response.aread()
            except httpx.TransportError:
                body = error_body("the model's server broke off", "engine_broke_off")
                await _send_whole(send, 502, [(b"content-type", b"application/json")], body)
                return
            if self._recorder is not None and response.status_code == 200:
                self._recorder.whole(body)
            await _send_whole(send, response.status_code, headers, body)
            return
        headers.append((b"x-accel-buffering", b"no"))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        try:
            async for chunk in response.aiter_raw():
                if self._recorder is not None:
                    self._recorder.part(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except httpx.TransportError as error:
            # Without its end the server breaks the connection off: the client must not take a part for the whole.
            log.warning("the model's server broke off in an answer (%s)", type(error).__name__)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_client_leaves(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do some work, and cancel it if the client closes its connection."""
    working = asyncio.ensure_future(work())
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, leaving):
            task.cancel() if not task.done() else None
        results = await asyncio.gather(working, leaving, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
