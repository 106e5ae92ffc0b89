"""The page on which people compare, what its script asks, and its own files.

Each POST needs the CSRF token of the browser's own pages. Knows no database.
"""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from components.labelling.assignment import Assigned
from components.labelling.desk import Desk
from components.labelling.joining import SESSION
from components.labelling.rendering import Refused, render
from components.labelling.view import view_of
from components.labelling.voting import Ballot, Outcome, ShownChoice
from components.web.cookies import BROWSER

ROOM = Path(__file__).parent
STATIC = {
    "base.css": ROOM.parent / "web" / "base.css",
    **{name: ROOM / "static" / name for name in ("page.css", "page.js", "outbox.js", "icon.svg")},
}
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NOTES: dict[Outcome, str] = {
    "kept": "",
    "already": "You had judged that one already, perhaps in another tab. The earlier judgement stands.",
    "closed": "That round had closed, so your last judgement came too late to count. Thank you all the same.",
    "unknown": "That item is no longer part of the round, so your last judgement was not kept.",
}
router = APIRouter()


class Visitor(BaseModel):
    """An annotator who is signed in, at their campaign's desk."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    desk: Desk
    annotator: str
    browser: str


class SentVote(BaseModel):
    """A vote as the page's script sends it."""

    model_config = ConfigDict(extra="forbid")

    vote_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    task: Annotated[str, Field(max_length=100)]
    item_id: Annotated[str, Field(max_length=16)]
    choice: ShownChoice
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
    flag: Annotated[str, Field(min_length=1, max_length=2000)] | None


class SentUndo(BaseModel):
    """A wish to take back the latest vote."""

    model_config = ConfigDict(extra="forbid")

    event_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    task: Annotated[str, Field(max_length=100)]


class SentAlive(BaseModel):
    """Word that an item is still in front of its annotator."""

    model_config = ConfigDict(extra="forbid")

    task: Annotated[str, Field(max_length=100)]
    item_id: Annotated[str, Field(max_length=16)]


def signed_in(request: Request, campaign: str) -> Visitor:
    """Return the annotator of a request.

    Raises:
        Refused: Nobody is signed in, or they ask more often than a person does.
    """
    desk: Desk | None = request.app.state.desks.find(campaign)
    annotator = desk.annotator_of(request.cookies.get(SESSION)) if desk is not None else None
    browser = request.cookies.get(BROWSER)
    if desk is None or annotator is None or browser is None:
        raise Refused(401, "You are not signed in", "Open the personal link that you were sent. Your votes are kept.")
    if not request.app.state.asked.take(f"{campaign}/{annotator}"):
        raise Refused(429, "That was too fast", "Wait some seconds, then go on.")
    return Visitor(desk=desk, annotator=annotator, browser=browser)


def posting(
    visitor: Annotated[Visitor, Depends(signed_in)], x_csrf_token: Annotated[str | None, Header()] = None
) -> Visitor:
    """Return the annotator of a POST.

    Raises:
        Refused: The request does not come from a page of ours.
    """
    if not visitor.desk.signer.is_csrf_token(x_csrf_token, visitor.browser):
        raise Refused(403, "This page is out of date", "Load it again, then repeat what you did.")
    return visitor


SignedIn = Annotated[Visitor, Depends(signed_in)]
Posting = Annotated[Visitor, Depends(posting)]


@router.get("/healthz")
def healthz() -> PlainTextResponse:
    """Answer that the server runs."""
    return PlainTextResponse("ok\n")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Send one of the page's own files."""
    path = STATIC.get(name)
    if path is None:
        raise Refused(404, "There is nothing here", "Open the personal link that you were sent.")
    return FileResponse(path, media_type=TYPES[path.suffix], headers={"cache-control": "no-cache"})


@router.get("/c/{campaign}/")
def show_page(visitor: SignedIn) -> HTMLResponse:
    """Show the page with the annotator's item."""
    return render(
        "page.html.j2",
        campaign=visitor.desk.campaign,
        annotator=visitor.annotator,
        csrf=visitor.desk.signer.csrf_token(visitor.browser),
        store=visitor.desk.browser_store(visitor.annotator),
        **_shown(visitor),
    )


@router.get("/c/{campaign}/item")
def show_item(visitor: SignedIn) -> HTMLResponse:
    """Show the annotator's item alone, for the script."""
    return _fragment(visitor)


@router.post("/c/{campaign}/vote")
def vote(visitor: Posting, sent: SentVote) -> HTMLResponse:
    """Keep a vote and show the next item."""
    ballot = Ballot(
        vote_id=sent.vote_id, item_id=sent.item_id, choice=sent.choice, seconds=sent.seconds, flag=sent.flag
    )
    return _fragment(visitor, NOTES[visitor.desk.vote(visitor.annotator, sent.task, ballot)])


@router.post("/c/{campaign}/undo")
def undo(visitor: Posting, sent: SentUndo) -> HTMLResponse:
    """Take back the latest vote and show its item again."""
    notes = {
        "undone": "Your last judgement is taken back: judge it again.",
        "none": "There is nothing to undo in this round.",
        "closed": "That round has closed, so its judgements stand.",
    }
    return _fragment(visitor, notes[visitor.desk.undo(visitor.annotator, sent.task, sent.event_id)])


@router.post("/c/{campaign}/alive")
def alive(visitor: Posting, sent: SentAlive) -> Response:
    """Renew a lease."""
    visitor.desk.renew(visitor.annotator, sent.task, sent.item_id)
    return Response(status_code=204)


def _fragment(visitor: Visitor, note: str = "") -> HTMLResponse:
    return render("item.html.j2", **_shown(visitor, note))


def _shown(visitor: Visitor, note: str = "") -> dict[str, object]:
    situation = visitor.desk.next(visitor.annotator)
    item = view_of(situation.next) if isinstance(situation.next, Assigned) else None
    state = "item" if isinstance(situation.next, Assigned) else situation.next
    return {"situation": situation, "item": item, "state": state, "note": note}
