"""The thumbs of a campaign on disk: rows that are added once and never changed, but for the deletion of their texts.

SQLite rather than lines of JSON: a row and its idempotency key are one transaction, a crash in the middle of a write is
rolled back by the next reader, several processes may work on the file, and a deletion overwrites what it deletes. The
journal is a file of its own and not shared memory, so that the file may lie on a network file system.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from components.feedback.submission import Submission
from components.records import ServiceFailed
from components.runtime.printable import one_line

STORE = Path("feedback") / "feedback.db"
"""The file within the campaign's directory."""
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS consents (digest TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS thumbs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    row_id TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL UNIQUE,
    content TEXT,
    received_at TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    completion_id TEXT,
    messages TEXT,
    response TEXT,
    correction TEXT,
    thumb TEXT NOT NULL CHECK (thumb IN ('up', 'down')),
    corrected INTEGER NOT NULL,
    served INTEGER NOT NULL,
    finish_reason TEXT,
    round INTEGER,
    model_digest TEXT,
    model TEXT,
    arm TEXT,
    consent TEXT NOT NULL REFERENCES consents (digest),
    erased_at TEXT
);
CREATE INDEX IF NOT EXISTS thumbs_by_conversation ON thumbs (conversation_id);
"""
COLUMNS = (
    "number, row_id, received_at, conversation_id, completion_id, messages, response, correction, thumb, corrected, "
    "served, finish_reason, round, model, arm, erased_at"
)


class OtherContent(ValueError):
    """A client used the name of an earlier submission for another one."""


@dataclass(frozen=True)
class Origin:
    """What the gateway knows of an answer that it sent."""

    round: int
    """Round whose model answered; 0 is the start model."""
    model_digest: str
    arm: str | None
    """`champion` or `challenger` while a canary runs."""
    finish_reason: str | None


@dataclass(frozen=True)
class Thumb:
    """A row of the store."""

    number: int
    row_id: str
    received_at: str
    conversation_id: str
    completion_id: str | None
    messages: str | None
    """The conversation before the answer, as tables hold it; None once the texts are deleted."""
    response: str | None
    correction: str | None
    thumb: str
    corrected: bool
    """Whether there was a correction; that stays when its text is deleted."""
    served: bool
    """Whether the gateway knows that it sent this answer to these messages."""
    finish_reason: str | None
    round: int | None
    model: str | None
    arm: str | None
    erased_at: str | None


class FeedbackStore:
    """The rows of one campaign.

    Args:
        path: The file; it is made when the first row comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, submission: Submission, *, origin: Origin | None, consent: str) -> tuple[str, bool]:
        """Keep a submission; it is on the disk when this returns.

        Args:
            submission: What the client sent.
            origin: What is known of the answer; None if it is not known to be the server's own.
            consent: The text that the user agreed to.

        Returns:
            The row's id, and whether it is new.

        Raises:
            OtherContent: Its name belongs to another submission.
            ServiceFailed: The file cannot be used, as on a full disk; nothing is kept.
        """
        content = hashlib.sha256(submission.model_dump_json().encode()).hexdigest()
        agreed = hashlib.sha256(consent.encode()).hexdigest()[:16]
        values = {
            "row_id": uuid4().hex,
            "client_id": submission.client_id,
            "content": content,
            "received_at": _now().isoformat(timespec="seconds"),
            "conversation_id": submission.conversation_id,
            "completion_id": submission.completion_id,
            "messages": submission.prompt,
            "response": submission.response,
            "correction": submission.correction,
            "thumb": submission.thumb,
            "corrected": submission.correction is not None,
            "served": origin is not None,
            "finish_reason": origin.finish_reason if origin else None,
            "round": origin.round if origin else None,
            "model_digest": origin.model_digest if origin else None,
            "model": submission.model,
            "arm": origin.arm if origin else None,
            "consent": agreed,
        }
        names = ", ".join(values)
        places = ", ".join(f":{name}" for name in values)
        with self._transaction(create=True) as database:
            known = database.execute(
                "SELECT row_id, content FROM thumbs WHERE client_id = ?", (submission.client_id,)
            ).fetchone()
            if known is not None:
                if known[1] not in (content, None):
                    raise OtherContent("client_id names an earlier, different submission: choose a new one")
                return known[0], False
            database.execute("INSERT OR IGNORE INTO consents VALUES (?, ?)", (agreed, consent))
            database.execute(f"INSERT INTO thumbs ({names}) VALUES ({places})", values)
        return str(values["row_id"]), True

    def rows(self) -> list[Thumb]:
        """Return all rows, oldest first."""
        if not self._has_rows:
            return []
        with self._transaction() as database:
            found = database.execute(f"SELECT {COLUMNS} FROM thumbs ORDER BY number").fetchall()
        return [_thumb(row) for row in found]

    def delete_conversation(self, conversation_id: str) -> int:
        """Delete the rows of a conversation and return their number."""
        if not self._has_rows:
            return 0
        with self._transaction() as database:
            return database.execute("DELETE FROM thumbs WHERE conversation_id = ?", (conversation_id,)).rowcount

    def erase_texts(self, *, days: int, now: datetime | None = None) -> int:
        """Delete the texts of rows that are older than some days and return the number of these rows.

        What stays is the thumb, its time and its model, for the counts, and the row's name, so that no round takes it.
        """
        if not self._has_rows:
            return 0
        moment = now or _now()
        limit = (moment - timedelta(days=days)).isoformat(timespec="seconds")
        with self._transaction() as database:
            return database.execute(
                "UPDATE thumbs SET messages = NULL, response = NULL, correction = NULL, content = NULL, erased_at = ? "
                "WHERE received_at < ? AND erased_at IS NULL",
                (moment.isoformat(timespec="seconds"), limit),
            ).rowcount

    def check(self) -> None:
        """Check the file, if there is one, and roll back what a crash left unfinished.

        Raises:
            ValueError: The file is damaged, or a newer version wrote it.
        """
        if not self._has_rows:
            return
        with self._transaction() as database:
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
        if verdict != "ok":
            raise ValueError(self._damaged(verdict))
        if version > SCHEMA_VERSION:
            raise ValueError(f"{self.path} was written by a newer version of Ratchet: install that version")

    @property
    def _has_rows(self) -> bool:
        """Whether anything was ever kept; the file is empty if the first write was interrupted."""
        return self.path.exists() and self.path.stat().st_size > 0

    @contextlib.contextmanager
    def _transaction(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction; several threads and processes wait for each other."""
        is_new = create and not self.path.exists()
        if is_new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Made here, so that no other user of the machine can read it for a moment.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        with (
            self._explained(),
            contextlib.closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as database,
        ):
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA secure_delete = ON")
            database.execute("BEGIN IMMEDIATE")
            if create:
                for statement in SCHEMA.split(";\n"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            yield database
            database.execute("COMMIT")  # without it, closing rolls back

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ServiceFailed(
                f"{self.path} cannot be used ({error}): see that the disk has space and that the file belongs to the "
                "user of `ratchet serve`, who must run this too"
            ) from None
        except sqlite3.DatabaseError as error:
            raise ValueError(self._damaged(str(error))) from None

    def _damaged(self, problem: str) -> str:
        remedy = "restore it from a copy, or move it away to begin with no thumbs"
        return f"{self.path} is damaged ({one_line(problem)}): {remedy}"


def _now() -> datetime:
    return datetime.now(UTC)


def _thumb(row: tuple[Any, ...]) -> Thumb:
    values = list(row)
    values[9], values[10] = bool(values[9]), bool(values[10])
    return Thumb(*values)
