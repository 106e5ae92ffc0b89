"""Where MLflow's files lie: under one root, whatever the current directory is and whether a server is up or not."""

import contextlib
import logging
import os
import sqlite3
from pathlib import Path

from components.runtime.addresses import without_password
from components.tracking.failures import TrackingRefused
from components.tracking.views import is_server

ARTIFACTS_VARIABLE = "RATCHET_ARTIFACTS"
log = logging.getLogger(__name__)
# Where MLflow's database holds addresses of files.
_PROXY = "mlflow-artifacts:"
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def artifact_root(runs: Path) -> str:
    """Return the address under which our own server and a store without one keep artifacts.

    It is RATCHET_ARTIFACTS if that is set, else the directory runs/mlartifacts. It depends neither on the current
    directory nor on whether a server is up, so each finds what the other has stored.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    configured = os.environ.get(ARTIFACTS_VARIABLE, "").rstrip("/")
    if not configured:
        return (runs.resolve() / "mlartifacts").as_uri()
    return configured if "://" in configured else Path(configured).absolute().as_uri()


def name_files_of_earlier_versions(database: Path, root: Path) -> None:
    """Replace addresses that only a server can read by those of the files.

    The server of an earlier version of `ratchet up` made experiments whose files nothing else finds. MLflow has no
    call that changes an address; its database is runs/mlflow.db, which is ours.

    Args:
        database: The SQLite file.
        root: Directory in which the server keeps the files.
    """
    is_proxied = "{column} LIKE 'mlflow-artifacts:/%' AND {column} NOT LIKE 'mlflow-artifacts://%'"
    with contextlib.closing(sqlite3.connect(database, timeout=15)) as connection, connection:
        query = f"SELECT name, artifact_location FROM experiments WHERE {is_proxied.format(column='artifact_location')}"
        experiments = connection.execute(query).fetchall()
        for table, column in _LOCATIONS if experiments else ():
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {is_proxied.format(column=column)}",
                (root.as_uri(), len(_PROXY) + 1),
            )
    for name, location in experiments:
        folder = location.removeprefix(_PROXY).strip("/")
        if not (root / folder).exists():
            log.warning(
                "MLflow's files of %s are expected in %s: an earlier version kept them in the folder mlartifacts of "
                "the directory in which `ratchet up` was run, so move mlartifacts/%s from there",
                name,
                root / folder,
                folder,
            )


def refuse_proxy(location: str, *, uri: str, name: str) -> None:
    """Refuse an experiment whose files only an MLflow server finds, if the store is opened without one.

    Raises:
        TrackingRefused: It is so.
    """
    if location.startswith(_PROXY) and not is_server(uri):
        raise TrackingRefused(
            f"the files of MLflow's experiment {name} are kept by an MLflow server ({location}), and "
            f"{without_password(uri)} is a database: set MLFLOW_TRACKING_URI to that server's address"
        )
