"""One campaign as its annotators meet it: sessions, the next item, votes. Joins database and pages; knows no HTTP."""

import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from components.labelling.assignment import Assigned, assign, renew
from components.labelling.database import Database
from components.labelling.invitations import Invitation, Refusal, accept, is_standing, look_up
from components.labelling.plan import Plan, read_plan
from components.labelling.progress import labelled_of_open, open_plans
from components.labelling.task import LABELLING, TASK, TASK_NAME
from components.labelling.voting import Ballot, Outcome, give_vote, is_closed, undo_vote
from components.runtime.secret_file import ensure_secret
from components.web.cookies import CookieSigner

SESSION_SECONDS = 30 * 24 * 3600
PROGRESS_SECONDS = 20.0
"""Age of the progress of all, so that it does not tell an annotator which of their votes counted."""
Missing = Literal["wait", "nothing", "closed", "none"]


@dataclass(frozen=True)
class Situation:
    """What an annotator sees next."""

    next: Assigned | Missing
    """An item; or "wait": others hold what is left; "nothing": nothing is left for this annotator; "closed": all tasks
    are closed; "none": there is no task yet."""
    task: str
    """Name of the task; empty if none is open."""
    judged: int
    """Items of this task that the annotator has judged or skipped."""
    round: int | None
    labelled: int
    quota: int


class Desk:
    """One campaign's labelling."""

    def __init__(self, directory: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open the campaign's database, and create it and the key of its cookies if there are none.

        Args:
            directory: The campaign's directory.
            clock: The time, with its zone.
        """
        self.campaign, self._directory, self._clock = directory.name, directory, clock
        self.database = Database(directory)
        key = ensure_secret(directory / LABELLING / "cookie-key", lambda: secrets.token_urlsafe(32))
        self.signer = CookieSigner(key)
        self._progress: tuple[float, dict[str, int]] = (-PROGRESS_SECONDS, {})
        self._progress_turn = threading.Lock()

    def look_up(self, token: str, browser: str | None) -> Invitation | Refusal:
        """Return the invitation of a token, or why its link does not open."""
        with self.database.reading() as connection:
            return look_up(connection, token, browser, self._clock())

    def accept(self, token: str, browser: str) -> str | Refusal:
        """Take up an invitation, and return the cookie of the session, or why the link does not open."""
        with self.database.writing() as connection:
            invitation = accept(connection, token, browser, self._clock())
        if not isinstance(invitation, Invitation):
            return invitation
        return self.signer.sign({"annotator": invitation.annotator, "link": invitation.token_hash})

    def annotator_of(self, cookie: str | None) -> str | None:
        """Return whose session a cookie is; None if it is not one, too old, or its link was revoked."""
        session = self.signer.read(cookie, max_age=SESSION_SECONDS)
        if session is None or session.keys() != {"annotator", "link"}:
            return None
        with self.database.reading() as connection:
            return session["annotator"] if is_standing(connection, session["annotator"], session["link"]) else None

    def next(self, annotator: str) -> Situation:
        """Lease the annotator's next item, in the earliest round that has one for them."""
        plans = open_plans(self._directory)
        missing: Missing = "closed" if any((self._directory / LABELLING).glob(f"*/{TASK}")) else "none"
        with self.database.leasing() as connection:
            for plan in plans:
                if is_closed(connection, plan) or plan.is_overdue(self._clock()):
                    continue
                assigned = assign(connection, plan, annotator, self._clock())
                if isinstance(assigned, Assigned):
                    return self._situation(connection, assigned, plan, annotator)
                missing = assigned if missing != "wait" else missing
            return self._situation(connection, missing, plans[-1] if plans else None, annotator)

    def vote(self, annotator: str, task: str, ballot: Ballot) -> Outcome:
        """Keep a vote, once."""
        plan = self._plan(task)
        if plan is None:
            return "unknown"
        with self.database.writing() as connection:
            return give_vote(connection, plan, annotator, ballot, self._clock())

    def undo(self, annotator: str, task: str, event_id: str) -> Literal["undone", "none", "closed"]:
        """Take back the annotator's latest vote in a task."""
        plan = self._plan(task)
        if plan is None:
            return "none"
        with self.database.writing() as connection:
            return undo_vote(connection, plan, annotator, event_id, self._clock())

    def renew(self, annotator: str, task: str, item_id: str) -> None:
        """Renew the annotator's lease: the page is open in front of them."""
        plan = self._plan(task)
        if plan is not None:
            with self.database.leasing() as connection:
                renew(connection, plan, annotator, item_id, self._clock())

    def browser_store(self, annotator: str) -> str:
        """Return the name under which the annotator's browser keeps votes that it could not send."""
        return hashlib.sha256(f"{self.campaign}/{annotator}".encode()).hexdigest()[:16]

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def _plan(self, task: str) -> Plan | None:
        directory = self._directory / LABELLING / task
        return read_plan(directory) if TASK_NAME.fullmatch(task) and (directory / TASK).exists() else None

    def _situation(
        self, connection: sqlite3.Connection, next: Assigned | Missing, plan: Plan | None, annotator: str
    ) -> Situation:
        if plan is None:
            return Situation(next=next, task="", judged=0, round=None, labelled=0, quota=0)
        (judged,) = connection.execute(
            "SELECT COUNT(*) FROM standing WHERE task = ? AND annotator = ?", (plan.name, annotator)
        ).fetchone()
        return Situation(
            next=next,
            task=plan.name,
            judged=judged,
            round=plan.task.round,
            labelled=self._labelled().get(plan.name, 0),
            quota=plan.task.quota,
        )

    def _labelled(self) -> dict[str, int]:
        """Return the items that are done by task, as of some seconds ago."""
        with self._progress_turn:
            read_at, labelled = self._progress
            if time.monotonic() - read_at >= PROGRESS_SECONDS:
                labelled = labelled_of_open(self._directory)
                self._progress = (time.monotonic(), labelled)
            return labelled
