"""The front's routes: the OpenAI-compatible endpoint, the chat page, thumbs, and the canary's page."""

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from components.config import FeedbackConfig
from components.feedback.store import FeedbackStore, OtherContent
from components.feedback.submission import TooLarge, read_submission
from components.serving.gateway.canary import Canary, conversation_of
from components.serving.gateway.canary_page import canary_html, canary_report
from components.serving.gateway.sent_answers import Recorder, SentAnswers
from components.serving.gateway.sessions import COOKIE, Door
from components.serving.gateway.upstream import MOST_BYTES, Engine, PassedOn, error_body
from components.web.guard import Guard
from components.web.safe_html import safe_html

STATIC = Path(__file__).parent / "static"
WEB = Path(__file__).parents[2] / "web"
FILES = {
    "base.css": (WEB / "base.css", "text/css"),
    "chat.css": (STATIC / "chat.css", "text/css"),
    "chat.js": (STATIC / "chat.js", "text/javascript"),
    "thumbs.js": (STATIC / "thumbs.js", "text/javascript"),
}
CHAT = "/v1/chat/completions"
HEALTH = "/health"
MOST_PAGE_BYTES = 2**20
"""Of a request that is no request to the engine."""
OTHER_CONSENT = "An API client said that its user agreed; it showed a text of its own."


@dataclass
class Gateway:
    """What the front serves."""

    campaign: str
    champion: Engine
    challenger: Engine | None
    canary: Canary | None
    store: FeedbackStore
    feedback: FeedbackConfig
    door: Door
    hosts: Collection[str]
    """Names under which browsers may ask for the pages."""
    example: dict[str, Any]
    """A request whose settings the chat page sends too."""
    system_prompt: str
    sent: SentAnswers = field(default_factory=SentAnswers)

    def engine_of(self, conversation: str) -> Engine:
        """Return the engine that answers a conversation."""
        takes = self.canary is not None and self.challenger is not None and self.canary.takes(conversation)
        return self.challenger if takes and self.challenger is not None else self.champion


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
            Route("/", _page, methods=["GET"]),
            Route("/static/{name}", _file, methods=["GET"]),
            Route("/session", bound(_session), methods=["GET"]),
            Route("/session", bound(_sign_in), methods=["POST"]),
            Route("/session", bound(_sign_out), methods=["DELETE"]),
            Route("/render", bound(_render), methods=["POST"]),
            Route("/feedback", bound(_take_feedback), methods=["POST"]),
            Route("/feedback/{conversation}", bound(_forget), methods=["DELETE"]),
            Route("/canary", bound(_canary), methods=["GET"]),
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


async def _page(request: Request) -> Response:
    return FileResponse(STATIC / "chat.html", media_type="text/html; charset=utf-8")


async def _file(request: Request) -> Response:
    found = FILES.get(request.path_params["name"])
    return FileResponse(found[0], media_type=found[1]) if found else refusal(404, "there is no such file", "not_found")


async def _session(request: Request, *, gateway: Gateway) -> Response:
    session = gateway.door.session(request)
    if session is None:
        return JSONResponse({"signed_in": False})
    return JSONResponse(_greeting(gateway, session.csrf))


def _greeting(gateway: Gateway, csrf: str) -> dict[str, Any]:
    settings = {name: value for name, value in gateway.example.items() if name != "messages"}
    return {
        "signed_in": True,
        "csrf": csrf,
        "campaign": gateway.campaign,
        "consent": gateway.feedback.consent_text,
        "request": settings,
        "system_prompt": gateway.system_prompt,
    }


async def _sign_in(request: Request, *, gateway: Gateway) -> Response:
    if not gateway.door.may_try(request):
        return refusal(429, "too many tries: wait a minute", "too_many_tries")
    content = await _json(request)
    if not isinstance(content, dict) or not gateway.door.is_key(content.get("key")):
        return refusal(401, "that is not the key of this server", "invalid_api_key")
    response = JSONResponse(None)
    session = gateway.door.sign_in(response)
    answer = JSONResponse(_greeting(gateway, session.csrf))
    answer.raw_headers += [header for header in response.raw_headers if header[0] == b"set-cookie"]
    return answer


async def _sign_out(request: Request, *, gateway: Gateway) -> Response:
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response


async def _render(request: Request, *, gateway: Gateway) -> Response:
    if gateway.door.may_change(request) is None:
        return unauthorised()
    content = await _json(request)
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        return refusal(422, "text is missing", "invalid_request")
    return JSONResponse({"html": safe_html(content["text"])})


async def _take_feedback(request: Request, *, gateway: Gateway) -> Response:
    with_key = gateway.door.has_key(request)
    if not with_key and gateway.door.may_change(request) is None:
        return unauthorised()
    body = await _body(request, MOST_PAGE_BYTES)
    if body is None:
        return refusal(413, f"the body has more than {MOST_PAGE_BYTES} bytes", "too_large")
    try:
        content = json.loads(body)
    except ValueError:
        return refusal(422, "the body is not valid JSON", "invalid_request")
    try:
        submission = read_submission(content)
    except TooLarge as error:
        return refusal(413, str(error), "too_large")
    except ValueError as error:
        return refusal(422, str(error), "invalid_request")
    messages = [message.model_dump() for message in submission.messages]
    origin = gateway.sent.origin(submission.completion_id, messages, submission.response)
    consent = OTHER_CONSENT if with_key else gateway.feedback.consent_text
    try:
        row_id, is_new = await run_in_threadpool(gateway.store.add, submission, origin=origin, consent=consent)
    except OtherContent as error:
        return refusal(409, str(error), "client_id_in_use")
    answer = {"id": row_id, "served": origin is not None, "new": is_new}
    return JSONResponse(answer, status_code=201 if is_new else 200)


async def _forget(request: Request, *, gateway: Gateway) -> Response:
    if not gateway.door.has_key(request) and gateway.door.may_change(request) is None:
        return unauthorised()
    deleted = await run_in_threadpool(gateway.store.delete_conversation, request.path_params["conversation"])
    return JSONResponse({"deleted": deleted})


async def _canary(request: Request, *, gateway: Gateway) -> Response:
    with_key = gateway.door.has_key(request)
    if not with_key and gateway.door.session(request) is None:
        return unauthorised()
    report = await run_in_threadpool(canary_report, gateway.store, gateway.canary, gateway.champion.round)
    if not with_key:
        return Response(canary_html(gateway.campaign, report), media_type="text/html; charset=utf-8")
    return JSONResponse(report)


async def _pass_on(request: Request, gateway: Gateway, client: httpx.AsyncClient) -> Any:
    path = request.url.path
    is_chat = path == CHAT and request.method == "POST"
    may = gateway.door.has_key(request) or (path == HEALTH and request.method in ("GET", "HEAD"))
    if not may and not (is_chat and gateway.door.may_change(request) is not None):
        return unauthorised()
    body = await _body(request, MOST_BYTES)
    if body is None:
        return refusal(413, f"the body has more than {MOST_BYTES} bytes", "too_large")
    if not is_chat:
        return PassedOn(request, body, client=client, engine=gateway.champion, recorder=None)
    content = _parsed(body)
    engine = gateway.engine_of(conversation_of(request.headers, content))
    recorder = Recorder(
        gateway.sent, content.get("messages"), round=engine.round, model_digest=engine.model_digest, arm=engine.arm
    )
    return PassedOn(request, body, client=client, engine=engine, recorder=recorder)


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the request; an empty one if it is none, which the engine refuses in its own words."""
    try:
        content = json.loads(body)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


async def _json(request: Request) -> Any:
    body = await _body(request, MOST_PAGE_BYTES)
    try:
        return json.loads(body or b"")
    except ValueError:
        return None


async def _body(request: Request, most: int) -> bytes | None:
    """Return a request's body; None if it is larger than allowed."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            return None
        parts.append(part)
    return b"".join(parts)


def refusal(status: int, message: str, code: str) -> Response:
    """Return an error in the form of the OpenAI API."""
    return Response(error_body(message, code), status_code=status, media_type="application/json")


def unauthorised() -> Response:
    """Return the answer to a request without the key."""
    response = refusal(401, "this server requires its key as a bearer token", "invalid_api_key")
    response.headers["www-authenticate"] = "Bearer"
    return response
