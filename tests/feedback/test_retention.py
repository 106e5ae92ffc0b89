"""Texts beyond the retention limit go while a server runs, and a failure to delete them does not end it."""

import logging
from pathlib import Path

import pytest

from components.feedback.retention import EVERY_SECONDS, RETRY_SECONDS, Retention
from components.feedback.store import STORE, FeedbackStore
from tests.feedback.thumbs import keep


def test_texts_that_cannot_be_deleted_now_are_deleted_once_they_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, now = FeedbackStore(tmp_path / STORE), 0.0
    retention = Retention(store, days=-1, clock=lambda: now)  # everything is due at once
    keep(store, 1)
    retention.look()
    assert [row.response for row in store.rows()] == ["answer 1"], "not before an hour has passed"
    whole = store.path.read_bytes()
    store.path.write_bytes(b"no database" * 1000)
    now = EVERY_SECONDS
    with caplog.at_level(logging.ERROR):
        retention.look()
        retention.look()
    (line,) = caplog.messages
    assert line.startswith("texts beyond preferences.feedback.retention_days are not deleted yet: ")
    store.path.write_bytes(whole)
    now += RETRY_SECONDS
    retention.look()
    assert [row.response for row in store.rows()] == [None]
