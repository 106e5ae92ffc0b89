"""The front's routes: the OpenAI-compatible endpoint, the chat page, thumbs, and the canary's page."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from components.serving.gateway import pages
from components.serving.gateway.canary import conversation_of
from components.serving.gateway.gateway import Gateway
from components.serving.gateway.replies import MOST_PAGE_BYTES, read_body, refusal, unauthorised
from components.serving.gateway.sent_answers import Recorder, has_own_words
from components.serving.gateway.upstream import MOST_BYTES, PassedOn
from components.web.guard import Guard

CHAT = "/v1/chat/completions"
HEALTH = "/health"


def build_front(gateway: Gateway) -> ASGIApp:
    """Return the ASGI application."""
    client: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        async with httpx.AsyncClient(limits=limits, trust_env=False) as opened:
            client.append(opened)
            yield

    async def pass_on(request: Request) -> Any:
        return await _pass_on(request, gateway, client[0])

    def bound(handler: Any) -> Any:
        return partial(handler, gateway=gateway)

    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", pages.page, methods=["GET"]),
            Route("/static/{name}", pages.file, methods=["GET"]),
            Route("/favicon.ico", pages.no_icon, methods=["GET"]),
            Route("/session", bound(pages.session), methods=["GET"]),
            Route("/session", bound(pages.sign_in), methods=["POST"]),
            Route("/session", bound(pages.sign_out), methods=["DELETE"]),
            Route("/render", bound(pages.render), methods=["POST"]),
            Route("/feedback", bound(pages.take_feedback), methods=["POST"]),
            Route("/feedback/{conversation:path}", bound(pages.forget), methods=["DELETE"]),
            Route("/canary", bound(pages.canary), methods=["GET"]),
            Route("/{path:path}", pass_on, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ],
    )
    return _Entrance(app, gateway)


class _Entrance:
    """Lets clients with the key in under any host name; browsers must name one of ours.

    A page of another site cannot know the key, but it could lead its own host name here.
    """

    def __init__(self, app: Starlette, gateway: Gateway) -> None:
        self._app, self._door = app, gateway.door
        self._guarded = Guard(app, hosts=gateway.hosts, max_body_bytes=MOST_PAGE_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        is_open = scope["type"] == "http" and (scope["path"] == HEALTH or self._door.has_key(Request(scope)))
        await (self._app if is_open or scope["type"] == "lifespan" else self._guarded)(scope, receive, send)


async def _pass_on(request: Request, gateway: Gateway, client: httpx.AsyncClient) -> Any:
    path = request.url.path
    is_chat = path == CHAT and request.method == "POST"
    may = gateway.door.has_key(request) or (path == HEALTH and request.method in ("GET", "HEAD"))
    if not may and not (is_chat and gateway.door.may_change(request) is not None):
        return unauthorised()
    body = await read_body(request, MOST_BYTES)
    if body is None:
        return refusal(413, f"the body has more than {MOST_BYTES} bytes", "too_large")
    if not is_chat:
        return PassedOn(request, body, client=client, engine=gateway.champion, recorder=None)
    content = _parsed(body)
    engine = gateway.engine_of(conversation_of(request.headers, content))
    recorder = None
    if has_own_words(content, gateway.example):
        recorder = Recorder(
            gateway.sent, content.get("messages"), round=engine.round, model_digest=engine.model_digest, arm=engine.arm
        )
    return PassedOn(request, body, client=client, engine=engine, recorder=recorder)


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the request; an empty one if it is none, which the engine refuses in its own words."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
