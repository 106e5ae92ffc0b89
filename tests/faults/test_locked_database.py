"""A database that another program holds for long: MLflow's costs only the record, Prefect's ends the start."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaigns import WHOLE, Campaign, check_same


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a SQLite database within the block, as a backup or a forgotten shell does."""
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.timeout(900)
def test_mlflow_database_that_is_held_costs_only_the_record_which_the_next_start_makes(
    undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    from components.tracking import ensure_store

    campaign = Campaign(tmp_path / "held", model)
    ensure_store(campaign.runs)
    with held(campaign.runs / "mlflow.db"):
        ended = campaign.run()
    ended.went_well()
    (line,) = [line for line in ended.said.splitlines() if "not recorded in MLflow" in line]
    assert "database is locked" in line
    assert "the next start records what is missing" in line
    assert campaign.state()["rounds"][0]["mlflow_run_id"] is None
    campaign.run().went_well()
    check_same(campaign, undisturbed)


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not WHOLE, reason="takes minutes: Prefect's server waits for its database; make test-faults")
def test_prefect_database_that_is_held_ends_the_start_in_a_line(
    undisturbed: Campaign, model: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path / "held", model)
    campaign.prefect.mkdir()
    with (
        contextlib.closing(sqlite3.connect(undisturbed.prefect / "prefect.db")) as source,
        contextlib.closing(sqlite3.connect(campaign.prefect / "prefect.db")) as copy,
    ):
        source.backup(copy)
    with held(campaign.prefect / "prefect.db"):
        ended = campaign.run()
    print(ended.code, ended.lines, flush=True)
    ended.told(1, "Prefect server", "locked")
    campaign.run().went_well()
    check_same(campaign, undisturbed)
