"""Personal links: who may annotate, and for how long. The database holds the hashes of their tokens alone."""

import hashlib
import re
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from components.labelling.database import Database

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
Refusal = Literal["unknown", "expired", "revoked", "used"]


@dataclass(frozen=True)
class Invitation:
    """A link that opens."""

    annotator: str
    token_hash: str


def check_name(annotator: str) -> None:
    """Check an annotator's name, which stands in links, in files and in the verdicts' parts.

    Raises:
        ValueError: It has characters that names of annotators do not have.
    """
    if not NAME.fullmatch(annotator):
        raise ValueError(
            f"annotator {annotator!r} must have 1 to 64 letters, digits, dots, hyphens, underscores or @, "
            "and begin with a letter or digit"
        )


def invite(database: Database, annotator: str, *, days: float, now: datetime) -> str:
    """Return a new token for an annotator's link; earlier links of theirs stay as they are.

    Raises:
        ValueError: As `check_name`.
    """
    check_name(annotator)
    token = secrets.token_urlsafe(32)
    with database.writing() as connection:
        connection.execute("INSERT OR IGNORE INTO annotators VALUES (?, ?)", (annotator, _iso(now)))
        connection.execute(
            "INSERT INTO invitations (token_hash, annotator, created_at, expires_at) VALUES (?, ?, ?, ?)",
            (hashed(token), annotator, _iso(now), _iso(now + timedelta(days=days))),
        )
    return token


def revoke(database: Database, annotator: str, *, now: datetime) -> int:
    """End an annotator's links, sessions and leases, and return how many links were open. Their votes stay.

    Raises:
        ValueError: Nobody of this name was invited.
    """
    with database.writing() as connection:
        if connection.execute("SELECT 1 FROM annotators WHERE name = ?", (annotator,)).fetchone() is None:
            names = [name for (name,) in connection.execute("SELECT name FROM annotators ORDER BY name")]
            raise ValueError(f"nobody named {annotator!r} was invited: choose from {', '.join(names) or 'nobody yet'}")
        revoked = connection.execute(
            "UPDATE invitations SET revoked_at = ? WHERE annotator = ? AND revoked_at IS NULL", (_iso(now), annotator)
        )
        connection.execute("DELETE FROM leases WHERE annotator = ?", (annotator,))
        return revoked.rowcount


def look_up(connection: sqlite3.Connection, token: str, browser: str | None, now: datetime) -> Invitation | Refusal:
    """Return the invitation of a token, or why its link does not open in this browser."""
    row = connection.execute("SELECT * FROM invitations WHERE token_hash = ?", (hashed(token),)).fetchone()
    if row is None:
        return "unknown"
    if row["revoked_at"] is not None:
        return "revoked"
    if now >= datetime.fromisoformat(row["expires_at"]):
        return "expired"
    if row["browser_hash"] is not None and (browser is None or row["browser_hash"] != hashed(browser)):
        return "used"
    return Invitation(row["annotator"], row["token_hash"])


def accept(connection: sqlite3.Connection, token: str, browser: str, now: datetime) -> Invitation | Refusal:
    """Take up an invitation in a browser. The same browser may do so again, as after an answer that was lost."""
    invitation = look_up(connection, token, browser, now)
    if isinstance(invitation, Invitation):
        connection.execute(
            "UPDATE invitations SET browser_hash = ? WHERE token_hash = ?", (hashed(browser), invitation.token_hash)
        )
    return invitation


def is_standing(connection: sqlite3.Connection, annotator: str, token_hash: str) -> bool:
    """Return whether the session that a link opened goes on: the link was not revoked."""
    row = connection.execute(
        "SELECT revoked_at FROM invitations WHERE token_hash = ? AND annotator = ?", (token_hash, annotator)
    ).fetchone()
    return row is not None and row["revoked_at"] is None


def hashed(token: str) -> str:
    """Return the sha256 of a random token, which needs no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


def _iso(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="seconds")
