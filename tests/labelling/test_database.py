import contextlib
import multiprocessing
import os
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from components.labelling.database import Database, database_path, looked_at, opened


def create(directory: Path) -> int:
    with opened(directory) as database, database.reading() as connection:
        return int(connection.execute("SELECT COUNT(*) FROM annotators").fetchone()[0])


def test_database_is_created_once_by_many_processes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as processes:
        for number in range(15):
            assert list(processes.map(create, [tmp_path / str(number)] * 4)) == [0] * 4


def test_second_opening_in_a_process_closes_no_descriptor_of_the_file(
    campaign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite loses its locks if the process closes another descriptor, and other processes then write beside it."""
    first = Database(campaign)
    closed: list[int] = []
    monkeypatch.setattr(os, "close", closed.append)
    Database(campaign).close()
    monkeypatch.undo()
    first.close()
    assert closed == []


def add_twice(database: Database) -> None:
    with contextlib.suppress(sqlite3.IntegrityError), database.writing() as connection:
        for _ in range(2):
            connection.execute("INSERT INTO annotators VALUES ('ann', '')")


def test_failed_transaction_is_undone(campaign: Path) -> None:
    database = Database(campaign)
    add_twice(database)
    database.close()
    assert create(campaign) == 0


def test_looking_at_no_database_creates_none(campaign: Path) -> None:
    with looked_at(campaign) as connection:
        assert connection is None
    assert not database_path(campaign).exists()
