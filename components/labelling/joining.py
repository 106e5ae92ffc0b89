"""The pages of personal links: a link shows a button, and the button exchanges it for a session."""

from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from components.labelling.desk import SESSION_SECONDS, Desk
from components.labelling.invitations import Invitation, Refusal
from components.labelling.rendering import Refused, message, render
from components.web.cookies import BROWSER, keep_cookie, new_browser

SESSION = "ratchet_session"
REFUSALS: dict[Refusal, tuple[int, str, str]] = {
    "unknown": (404, "This link does not exist", "Check that you copied all of it, or ask for a new one."),
    "expired": (410, "This link has expired", "Ask the person who invited you for a new one. Your votes are kept."),
    "revoked": (410, "This link was withdrawn", "Ask the person who invited you if that was a mistake."),
    "used": (
        409,
        "This link was opened elsewhere",
        "A link works in one browser. Ask for another one.",
    ),
}
router = APIRouter()


@router.get("/")
def entrance() -> HTMLResponse:
    """Say how to get in."""
    return message(200, "Compare answers", "Open the personal link that you were sent to begin.")


@router.get("/join/{link}")
def show_link(request: Request, link: str) -> HTMLResponse:
    """Show a button: programs that preview links press none, and so do not use the link up."""
    desk, token = _desk_of(request, link)
    browser = request.cookies.get(BROWSER) or new_browser()
    invitation = desk.look_up(token, browser)
    if not isinstance(invitation, Invitation):
        return message(*REFUSALS[invitation])
    csrf = desk.signer.csrf_token(browser)
    response = render("join.html.j2", annotator=invitation.annotator, campaign=desk.campaign, csrf=csrf)
    keep_cookie(response, BROWSER, browser, path="/", max_age=SESSION_SECONDS, secure=request.app.state.secure)
    return response


@router.post("/join/{link}")
async def open_link(request: Request, link: str) -> Response:
    """Exchange a link for a session."""
    desk, token = await run_in_threadpool(_desk_of, request, link)
    form = parse_qs((await request.body()).decode("utf-8", errors="replace"))
    browser = request.cookies.get(BROWSER)
    if browser is None or not desk.signer.is_csrf_token(form.get("csrf", [""])[0], browser):
        return message(403, "This browser keeps no cookies", "Allow cookies for this page, then open the link again.")
    cookie = await run_in_threadpool(desk.accept, token, browser)
    if cookie in REFUSALS:
        return message(*REFUSALS[cookie])
    response = RedirectResponse(f"/c/{desk.campaign}/", status_code=303)
    keep_cookie(
        response,
        SESSION,
        cookie,
        path=f"/c/{desk.campaign}/",
        max_age=SESSION_SECONDS,
        secure=request.app.state.secure,
    )
    return response


def _desk_of(request: Request, link: str) -> tuple[Desk, str]:
    """Return the desk and the token of a link, `campaign.token`; a token has no dots.

    Raises:
        Refused: The campaign has no labelling, or this address has tried too many links.
    """
    address = request.client.host if request.client else ""
    if not request.app.state.tried.take(address):
        raise Refused(429, "Too many links were tried from here", "Wait a minute, then open yours again.")
    campaign, _, token = link.rpartition(".")
    desk = request.app.state.desks.find(campaign)
    if desk is None:
        raise Refused(*REFUSALS["unknown"])
    return desk, token
