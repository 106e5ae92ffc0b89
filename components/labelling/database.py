"""The SQLite file in which the page keeps votes, leases and invitations, one per campaign.

Only the page's own host opens it: its write-ahead log does not work over network file systems. Everybody else reads the
files of `components.labelling.task`. Knows no page.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from components.labelling.task import LABELLING
from components.records import NewerVersion

FILE = "labels.sqlite"
SCHEMA = 1
BUSY_SECONDS = 20
_CREATION = threading.Lock()
TABLES = """
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    task TEXT NOT NULL,
    annotator TEXT NOT NULL,
    item_id TEXT NOT NULL,
    choice TEXT,
    shown_left TEXT,
    seconds REAL,
    flag TEXT,
    at TEXT NOT NULL,
    undoes TEXT UNIQUE
) STRICT;
CREATE INDEX events_of_task ON events (task, annotator);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_are_kept BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
CREATE VIEW standing AS SELECT * FROM events AS vote
    WHERE undoes IS NULL AND NOT EXISTS (SELECT 1 FROM events AS undo WHERE undo.undoes = vote.event_id);
CREATE TABLE showings (
    task TEXT NOT NULL,
    annotator TEXT NOT NULL,
    item_id TEXT NOT NULL,
    shown_left TEXT NOT NULL,
    at TEXT NOT NULL,
    PRIMARY KEY (task, annotator, item_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
    task TEXT NOT NULL,
    annotator TEXT NOT NULL,
    item_id TEXT NOT NULL,
    begun REAL NOT NULL,
    expires REAL NOT NULL,
    PRIMARY KEY (task, annotator, item_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE closings (task TEXT PRIMARY KEY, closed TEXT NOT NULL, closed_at TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE annotators (name TEXT PRIMARY KEY, invited_at TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE invitations (
    token_hash TEXT PRIMARY KEY,
    annotator TEXT NOT NULL REFERENCES annotators (name),
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    browser_hash TEXT,
    revoked_at TEXT
) STRICT, WITHOUT ROWID;
"""
"""A vote is an event with a choice; an event that `undoes` one takes it back. `standing` has the others."""


class Database:
    """One connection, which threads take in turns; other processes wait for each other by SQLite's own locks."""

    def __init__(self, campaign_directory: Path) -> None:
        """Open the database of a campaign, and create it, readable by its owner alone, if there is none.

        Raises:
            NewerVersion: A newer version of Ratchet wrote it.
        """
        path = database_path(campaign_directory)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Lock()
        with _CREATION:
            _ensure_file(path)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            self._connection.row_factory = sqlite3.Row
            self._keep_log()
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._create(path)
            self._path, self._file = path, os.stat(path).st_ino
        except BaseException:
            self.close()
            raise

    def _keep_log(self) -> None:
        """Turn the write-ahead log on, for which SQLite does not wait by itself."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _create(self, path: Path) -> None:
        with self.writing() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA:
                raise NewerVersion(
                    f"{path} was written by a newer version of Ratchet (schema {version}, this version knows "
                    f"{SCHEMA}): install that version"
                )
            if version == 0:
                # Not executescript, which would commit: two processes may create it at once.
                for statement in _statements(TABLES):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction that alone may write; it is undone after an error.

        What it wrote is on the disk when the block ends: a crash of the machine loses no vote that was answered.
        """
        with self._transaction("FULL") as connection:
            yield connection

    @contextlib.contextmanager
    def leasing(self) -> Iterator[sqlite3.Connection]:
        """Yield the same for what may be lost with the machine's power, such as leases: it waits for no disk."""
        with self._transaction("NORMAL") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, synchronous: str) -> Iterator[sqlite3.Connection]:
        with self._turn:
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for queries."""
        with self._turn:
            yield self._connection

    def is_in_place(self) -> bool:
        """Return whether its file is still at its path: what is written to one that was removed is lost."""
        try:
            return os.stat(self._path).st_ino == self._file
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the connection, after the transaction that runs."""
        with self._turn:
            self._connection.close()


def database_path(campaign_directory: Path) -> Path:
    """Return the path of a campaign's database."""
    return campaign_directory / LABELLING / FILE


@contextlib.contextmanager
def opened(campaign_directory: Path) -> Iterator[Database]:
    """Yield a campaign's database for the length of a block."""
    database = Database(campaign_directory)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def looked_at(campaign_directory: Path) -> Iterator[sqlite3.Connection | None]:
    """Yield a connection that can only read, or None if the campaign has no database yet."""
    path = database_path(campaign_directory)
    if not path.exists():
        yield None
        return
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
    connection.row_factory = sqlite3.Row
    try:
        yield connection if connection.execute("PRAGMA user_version").fetchone()[0] else None
    finally:
        connection.close()


def _ensure_file(path: Path) -> None:
    """Create the file for its owner alone, if there is none.

    An existing one is not opened: to close it again would end the locks of all this process's connections to it.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _statements(script: str) -> list[str]:
    statements, begun = [], ""
    for line in script.splitlines():
        begun += f"{line}\n"
        if sqlite3.complete_statement(begun):
            statements.append(begun)
            begun = ""
    return statements
