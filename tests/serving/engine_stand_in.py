"""Stands for an engine, whose speed and words a test must know: real HTTP on a port of its own, with a key."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from components.serving.gateway.upstream import Engine

KEY = "key-of-the-engine"


@dataclass
class StandIn:
    """An engine that answers with given words, one a part."""

    words: list[str]
    seconds: float = 0.0
    """Before each part."""
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    cancelled: int = 0
    sent_parts: int = 0
    port: int = 0
    breaks_off: bool = False

    def engine(self, *, round: int = 1, arm: str | None = None) -> Engine:
        return Engine(f"http://127.0.0.1:{self.port}", KEY, round, f"digest-{round}", arm)

    async def answer(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        if request.headers.get("authorization") != f"Bearer {KEY}" and request.url.path != "/health":
            return JSONResponse({"error": {"message": "no key"}}, status_code=401)
        if request.url.path != "/v1/chat/completions":
            return JSONResponse({"path": request.url.path, "query": request.url.query})
        content = json.loads(body)
        name = f"chatcmpl-{len(self.seen)}"
        if content.get("model") == "unknown":
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        if content.get("stream"):
            return StreamingResponse(self._parts(name), media_type="text/event-stream")
        await self._wait(request)
        choice = {"index": 0, "message": {"content": "".join(self.words)}, "finish_reason": "stop"}
        return JSONResponse({"id": name, "choices": [choice]})

    async def _wait(self, request: Request) -> None:
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            if await request.is_disconnected():
                self.cancelled += 1
                return
            await asyncio.sleep(0.02)

    async def _parts(self, name: str) -> AsyncIterator[bytes]:
        try:
            for word in self.words:
                await asyncio.sleep(self.seconds)
                self.sent_parts += 1
                yield self._event(name, {"content": word}, None)
            if self.breaks_off:
                raise ConnectionError("the engine dies")
            yield self._event(name, {}, "stop")
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @staticmethod
    def _event(name: str, delta: dict[str, Any], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b"data: " + json.dumps({"id": name, "choices": [choice]}).encode() + b"\n\n"


@contextlib.contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    """Let it listen while the block lasts."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    stand_in.port = listener.getsockname()[1]
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", stand_in.answer, methods=methods)])
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield stand_in
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
