"""The store of thumbs: real SQLite, a writer that is really killed."""

import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.feedback.store import FeedbackStore, OtherContent
from components.records import ServiceFailed
from tests.feedback.thumbs import ORIGIN, keep, submission

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from components.feedback.store import FeedbackStore
from tests.feedback.thumbs import keep
store = FeedbackStore(Path(sys.argv[1]))
for number in range(100_000):
    print(keep(store, number), flush=True)
"""
TORN = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # the changed pages go to the file before the commit
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE thumbs SET response = ?", ("x" * 50_000,))
database.execute("INSERT INTO consents VALUES ('torn', ?)", ("y" * 500_000,))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    return FeedbackStore(tmp_path / "feedback" / "feedback.db")


def test_store_same_client_id_twice_is_one_row(store: FeedbackStore) -> None:
    first, is_new = store.add(submission(), origin=ORIGIN, consent="I agree")
    again, is_new_again = store.add(submission(), origin=None, consent="I agree")
    assert (first, is_new, is_new_again) == (again, True, False)
    (row,) = store.rows()
    assert row.served
    assert row.round == 1
    with pytest.raises(OtherContent, match="client_id names an earlier, different submission"):
        store.add(submission(thumb="down"), origin=ORIGIN, consent="I agree")
    assert len(store.rows()) == 1


def test_store_killed_writer_loses_no_row_that_it_confirmed(store: FeedbackStore) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        confirmed = [child.stdout.readline().strip() for _ in range(20)]
        time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        confirmed += child.stdout.read().split()
    store.check()
    kept = [row.row_id for row in store.rows()]
    # One more may be kept whose confirmation was lost; its client sends it again under the same client_id.
    assert kept[: len(confirmed)] == confirmed
    assert len(kept) - len(confirmed) in (0, 1)
    before = len(kept)
    keep(store, before - 1)
    assert len(store.rows()) == before


def test_store_write_that_was_torn_is_rolled_back(store: FeedbackStore) -> None:
    for number in range(50):
        keep(store, number)
    before, bytes_before = store.rows(), store.path.read_bytes()
    torn = subprocess.run([sys.executable, "-c", TORN, str(store.path)], check=False)
    assert torn.returncode == -signal.SIGKILL
    assert store.path.read_bytes() != bytes_before, "the test must leave half a write in the file"
    store.check()
    assert store.rows() == before


def test_store_damaged_file_is_refused_in_one_line(store: FeedbackStore) -> None:
    for number in range(100):
        keep(store, number)
    content = bytearray(store.path.read_bytes())
    content[4096:12288] = b"\x5a" * 8192
    store.path.write_bytes(content)
    with pytest.raises(ValueError, match=r"feedback\.db is damaged .*restore it from a copy"):
        store.check()
    store.path.write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="is damaged"):
        store.rows()


def test_store_of_a_newer_version_is_refused(store: FeedbackStore) -> None:
    keep(store, 1)
    database = sqlite3.connect(store.path)
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(ValueError, match="newer version"):
        store.check()


def test_store_retention_deletes_texts_and_keeps_the_counts(store: FeedbackStore) -> None:
    keep(store, 1, response="a secret answer", correction="a secret correction")
    assert store.erase_texts(days=90) == 0
    later = datetime.now(UTC) + timedelta(days=91)
    assert b"secret" in store.path.read_bytes()
    assert store.erase_texts(days=90, now=later) == 1
    assert store.erase_texts(days=90, now=later) == 0
    (row,) = store.rows()
    assert (row.messages, row.response, row.correction) == (None, None, None)
    assert (row.thumb, row.corrected, row.round) == ("up", True, 1)
    assert row.erased_at is not None
    assert b"secret" not in store.path.read_bytes(), "deleted texts must not stay in free pages"


def test_store_conversation_is_deleted_as_a_whole(store: FeedbackStore) -> None:
    keep(store, 1, conversation_id="mine", response="my own words")
    keep(store, 2, conversation_id="mine")
    other = keep(store, 3)
    assert store.delete_conversation("mine") == 2
    assert store.delete_conversation("mine") == 0
    assert [row.row_id for row in store.rows()] == [other]
    assert b"my own words" not in store.path.read_bytes()


def test_store_is_for_its_owner_alone_and_missing_before_the_first_row(store: FeedbackStore) -> None:
    assert store.rows() == []
    assert store.erase_texts(days=1) == store.delete_conversation("v") == 0
    assert not store.path.exists()
    keep(store, 1)
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_store_row_records_the_text_that_its_user_agreed_to(store: FeedbackStore) -> None:
    store.add(submission(), origin=None, consent="first text")
    store.add(submission(client_id="c2"), origin=None, consent="second text")
    database = sqlite3.connect(store.path)
    texts = database.execute("SELECT text FROM thumbs JOIN consents ON consent = digest ORDER BY number").fetchall()
    database.close()
    assert texts == [("first text",), ("second text",)]


def test_store_that_cannot_be_opened_says_what_to_look_at(store: FeedbackStore) -> None:
    keep(store, 1)
    content = store.path.read_bytes()
    store.path.unlink()
    store.path.mkdir()
    (store.path / "file").write_bytes(content)
    with pytest.raises(ServiceFailed, match=r"feedback\.db cannot be used \(unable to open database file\): see that"):
        store.rows()
