"""Give a vote and take it back, as events that are never changed. Runs in the caller's transaction."""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from components.labelling.assignment import hold, shown_left
from components.labelling.plan import Plan
from components.labelling.task import Choice, Vote

ShownChoice = Literal["left", "right", "tie", "both_bad", "skip"]
Outcome = Literal["kept", "already", "closed", "unknown"]


@dataclass(frozen=True)
class Ballot:
    """What an annotator's browser sends: it does not know which answer is the first."""

    vote_id: str
    item_id: str
    choice: ShownChoice
    seconds: float
    flag: str | None


def give_vote(connection: sqlite3.Connection, plan: Plan, annotator: str, ballot: Ballot, now: datetime) -> Outcome:
    """Keep a vote, once, however often it is sent, and end the annotator's lease.

    A vote whose lease ended is kept: it is somebody's work.

    Returns:
        "kept" for a vote that stands or was sent before; "already" if the annotator has judged the item, as from
        another tab; "closed" if the task is closed; "unknown" for an item that the annotator was never shown.
    """
    sent = connection.execute("SELECT annotator, item_id FROM events WHERE event_id = ?", (ballot.vote_id,)).fetchone()
    if sent is not None:
        return "kept" if tuple(sent) == (annotator, ballot.item_id) else "unknown"
    if is_closed(connection, plan):
        return "closed"
    left = shown_left(connection, plan, annotator, ballot.item_id)
    if left is None or ballot.item_id not in plan.items:
        return "unknown"
    judged = connection.execute(
        "SELECT 1 FROM standing WHERE task = ? AND annotator = ? AND item_id = ?",
        (plan.name, annotator, ballot.item_id),
    ).fetchone()
    if judged is not None:
        return "already"
    right = "second" if left == "first" else "first"
    choice = {"left": left, "right": right}.get(ballot.choice, ballot.choice)
    add_vote(
        connection,
        plan,
        Vote(
            vote_id=ballot.vote_id,
            item_id=ballot.item_id,
            annotator=annotator,
            choice=_as_choice(choice),
            shown_left=left,
            seconds=ballot.seconds,
            at=_iso(now),
            flag=ballot.flag,
        ),
    )
    connection.execute(
        "DELETE FROM leases WHERE task = ? AND annotator = ? AND item_id = ?", (plan.name, annotator, ballot.item_id)
    )
    return "kept"


def add_vote(connection: sqlite3.Connection, plan: Plan, vote: Vote) -> None:
    """Append a vote to the events."""
    connection.execute(
        "INSERT INTO events (event_id, task, annotator, item_id, choice, shown_left, seconds, flag, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            vote.vote_id,
            plan.name,
            vote.annotator,
            vote.item_id,
            vote.choice,
            vote.shown_left,
            vote.seconds,
            vote.flag,
            vote.at,
        ),
    )


def undo_vote(
    connection: sqlite3.Connection, plan: Plan, annotator: str, event_id: str, now: datetime
) -> Literal["undone", "none", "closed"]:
    """Take back the annotator's latest vote that stands, once per event, and lease its item to them again."""
    if connection.execute("SELECT 1 FROM events WHERE event_id = ?", (event_id,)).fetchone():
        return "undone"
    if is_closed(connection, plan):
        return "closed"
    vote = connection.execute(
        "SELECT event_id, item_id FROM standing WHERE task = ? AND annotator = ? ORDER BY sequence DESC LIMIT 1",
        (plan.name, annotator),
    ).fetchone()
    if vote is None:
        return "none"
    connection.execute(
        "INSERT INTO events (event_id, task, annotator, item_id, at, undoes) VALUES (?, ?, ?, ?, ?, ?)",
        (event_id, plan.name, annotator, vote["item_id"], _iso(now), vote["event_id"]),
    )
    hold(connection, plan, annotator, vote["item_id"], now)
    return "undone"


def standing_votes(connection: sqlite3.Connection, plan: Plan) -> tuple[Vote, ...]:
    """Return the votes that are not taken back, in the order in which they were given."""
    fields = ", ".join(["event_id AS vote_id", *(name for name in Vote.model_fields if name != "vote_id")])
    rows = connection.execute(f"SELECT {fields} FROM standing WHERE task = ? ORDER BY sequence", (plan.name,))
    return tuple(Vote(**row) for row in rows.fetchall())


def is_closed(connection: sqlite3.Connection, plan: Plan) -> bool:
    """Return whether the task takes no more votes."""
    return connection.execute("SELECT 1 FROM closings WHERE task = ?", (plan.name,)).fetchone() is not None


def _as_choice(choice: str) -> Choice:
    assert choice in ("first", "second", "tie", "both_bad", "skip")
    return choice  # type: ignore[return-value]


def _iso(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds")
