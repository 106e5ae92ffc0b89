"""The labelling server's application: every campaign below the runs directory that has tasks for people."""

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from components.config.campaign import CAMPAIGN_NAME
from components.labelling import joining, pages
from components.labelling.desk import Desk
from components.labelling.progress import close_due
from components.labelling.rendering import Refused, message
from components.labelling.task import LABELLING
from components.runtime.rare_log import RareLog
from components.runtime.ticking import every
from components.web.guard import App, Guard
from components.web.rate_limit import TokenBuckets

TICK_SECONDS = 2.0
MAX_BODY_BYTES = 32 * 1024
log = logging.getLogger(__name__)


class Desks:
    """The campaigns' desks, each opened when it is first asked for."""

    def __init__(self, runs: Path) -> None:
        """Open none yet.

        Args:
            runs: Directory that holds the campaigns' directories.
        """
        self._runs = runs
        self._open: dict[str, Desk] = {}
        self._turn = threading.Lock()

    def find(self, campaign: str) -> Desk | None:
        """Return a campaign's desk; None if the campaign has nothing to do with labelling."""
        if not CAMPAIGN_NAME.fullmatch(campaign) or not (self._runs / campaign / LABELLING).is_dir():
            return None
        with self._turn:
            desk = self._open.get(campaign)
            if desk is not None and not desk.database.is_in_place():
                # Before another is opened, whose write-ahead log SQLite would otherwise take from the removed one.
                desk.close()
                desk = None
            if desk is None:
                desk = self._open[campaign] = Desk(self._runs / campaign)
            return desk

    def close(self) -> None:
        """Close all."""
        for desk in self._open.values():
            desk.close()


def create_app(runs: Path, *, hosts: Collection[str], url: str, ticks: Sequence[Callable[[], None]] = ()) -> App:
    """Return the application.

    Args:
        runs: Directory that holds the campaigns' directories.
        hosts: Names, without ports, that requests may ask for.
        url: Public address of the server; its cookies are for HTTPS alone if it begins with https.
        ticks: Called every two seconds after the tasks that are due are closed; an error is logged once a minute, and
            the call is repeated the next time.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ticking(runs, ticks):
            yield
        app.state.desks.close()

    app = FastAPI(title="Ratchet labelling", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.desks = Desks(runs)
    app.state.secure = url.startswith("https://")
    # A person answers every few seconds; a browser that comes back sends what it kept.
    app.state.asked = TokenBuckets(per_second=4, burst=30)
    # A room full of people opens its links from one address; a token has 256 random bits.
    app.state.tried = TokenBuckets(per_second=1, burst=120)
    app.include_router(joining.router)
    app.include_router(pages.router)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(HTTPException, _refuse_unknown)
    app.add_exception_handler(RequestValidationError, _refuse_malformed)
    return Guard(app, hosts=hosts, max_body_bytes=MAX_BODY_BYTES)


@contextlib.contextmanager
def ticking(runs: Path, ticks: Sequence[Callable[[], None]]) -> Iterator[None]:
    """Close the tasks that are due, then call each tick, every two seconds within the block.

    A campaign whose files are damaged or cannot be read does not keep the others waiting.
    """
    errors = RareLog(log)

    def tick() -> None:
        for directory in sorted(path.parent for path in runs.glob(f"*/{LABELLING}")):
            with errors.attempt(f"labelling of campaign {directory.name}"):
                close_due(directory, datetime.now(UTC))
        for number, act in enumerate(ticks):
            with errors.attempt(f"labelling, tick {number}"):
                act()

    with every(TICK_SECONDS, tick):
        yield


async def _refuse(request: Request, error: Exception) -> HTMLResponse:
    assert isinstance(error, Refused)
    return message(error.status, error.heading, error.text)


async def _refuse_unknown(request: Request, error: Exception) -> HTMLResponse:
    assert isinstance(error, HTTPException)
    return message(error.status_code, "There is nothing here", "Open the personal link that you were sent.")


async def _refuse_malformed(request: Request, error: Exception) -> HTMLResponse:
    return message(422, "This page is out of date", "Load it again, then repeat what you did.")
