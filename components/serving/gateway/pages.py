"""The front's pages and what they and other clients send: sign-in, consent, thumbs, and the canary's numbers."""

import json
import logging
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from components.feedback.consent import consent_text
from components.feedback.store import OtherContent
from components.feedback.submission import TooLarge, read_submission
from components.records import ServiceFailed
from components.serving.gateway.canary_page import canary_html, canary_report
from components.serving.gateway.gateway import Gateway
from components.serving.gateway.replies import MOST_PAGE_BYTES, read_body, refusal, unauthorised
from components.serving.gateway.sessions import COOKIE
from components.web.safe_html import safe_html

STATIC = Path(__file__).parent / "static"
WEB = Path(__file__).parents[2] / "web"
FILES = {
    "base.css": (WEB / "base.css", "text/css"),
    "chat.css": (STATIC / "chat.css", "text/css"),
    "chat.js": (STATIC / "chat.js", "text/javascript"),
    "thumbs.js": (STATIC / "thumbs.js", "text/javascript"),
}
OTHER_CONSENT = "An API client said that its user agreed; it showed a text of its own."

log = logging.getLogger(__name__)


async def page(request: Request) -> Response:
    """Return the chat page."""
    return FileResponse(STATIC / "chat.html", media_type="text/html; charset=utf-8")


async def file(request: Request) -> Response:
    """Return a script or a stylesheet of the pages."""
    found = FILES.get(request.path_params["name"])
    return FileResponse(found[0], media_type=found[1]) if found else refusal(404, "there is no such file", "not_found")


async def no_icon(request: Request) -> Response:
    """Say that there is none; browsers ask for it without the key."""
    return Response(status_code=204)


async def session(request: Request, *, gateway: Gateway) -> Response:
    """Say whether the browser is signed in, and what its page needs to know."""
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
        "consent": consent_text(gateway.feedback),
        "request": settings,
        "system_prompt": gateway.system_prompt,
    }


async def sign_in(request: Request, *, gateway: Gateway) -> Response:
    """Sign a browser in by the key."""
    if not gateway.door.may_try(request):
        return refusal(429, "too many tries: wait a minute", "too_many_tries")
    content = await _json(request)
    if not isinstance(content, dict) or not gateway.door.is_key(content.get("key")):
        return refusal(401, "that is not the key of this server", "invalid_api_key")
    session = gateway.door.new_session()
    response = JSONResponse(_greeting(gateway, session.csrf))
    gateway.door.keep(session, response)
    return response


async def sign_out(request: Request, *, gateway: Gateway) -> Response:
    """Sign a browser out."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response


async def render(request: Request, *, gateway: Gateway) -> Response:
    """Return the safe HTML of an answer."""
    if gateway.door.may_change(request) is None:
        return unauthorised()
    content = await _json(request)
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        return refusal(422, "text is missing", "invalid_request")
    return JSONResponse({"html": safe_html(content["text"])})


async def take_feedback(request: Request, *, gateway: Gateway) -> Response:
    """Keep a thumb."""
    with_key = gateway.door.has_key(request)
    if not with_key and gateway.door.may_change(request) is None:
        return unauthorised()
    body = await read_body(request, MOST_PAGE_BYTES)
    if body is None:
        return refusal(413, f"the body has more than {MOST_PAGE_BYTES} bytes", "too_large")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return refusal(422, "the body is not valid JSON", "invalid_request")
    try:
        submission = read_submission(content)
    except TooLarge as error:
        return refusal(413, str(error), "too_large")
    except ValueError as error:
        return refusal(422, str(error), "invalid_request")
    messages = [message.model_dump() for message in submission.messages]
    origin = gateway.sent.origin(submission.completion_id, messages, submission.response)
    consent = OTHER_CONSENT if with_key else consent_text(gateway.feedback)
    try:
        row_id, is_new = await run_in_threadpool(gateway.store.add, submission, origin=origin, consent=consent)
    except OtherContent as error:
        return refusal(409, str(error), "client_id_in_use")
    except (ServiceFailed, ValueError) as error:
        log.error("%s", error)
        return refusal(503, "the rating could not be kept: try again later", "not_kept")
    answer = {"id": row_id, "served": origin is not None, "new": is_new}
    return JSONResponse(answer, status_code=201 if is_new else 200)


async def forget(request: Request, *, gateway: Gateway) -> Response:
    """Delete what was kept of a conversation."""
    if not gateway.door.has_key(request) and gateway.door.may_change(request) is None:
        return unauthorised()
    deleted = await run_in_threadpool(gateway.store.delete_conversation, request.path_params["conversation"])
    return JSONResponse({"deleted": deleted})


async def canary(request: Request, *, gateway: Gateway) -> Response:
    """Return what users say of champion and challenger: a page for a browser, JSON for a client with the key."""
    with_key = gateway.door.has_key(request)
    if not with_key and gateway.door.session(request) is None:
        return unauthorised()
    report = await run_in_threadpool(canary_report, gateway.store, gateway.canary, gateway.champion.round)
    if not with_key:
        return Response(canary_html(gateway.campaign, report), media_type="text/html; charset=utf-8")
    return JSONResponse(report)


async def _json(request: Request) -> Any:
    body = await read_body(request, MOST_PAGE_BYTES)
    try:
        return json.loads(body or b"")
    except (ValueError, RecursionError):
        return None
