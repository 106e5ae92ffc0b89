"""Connect to MLflow's store: quietly, with short waits, and with one error for every outage.

Knows nothing of campaigns except the path of their files.
"""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient

from components.records import ServiceFailed
from components.runtime.addresses import without_password
from components.tracking.views import is_server

_SQLITE = "sqlite:///"
_ADDRESS = "MLFLOW_TRACKING_URI"
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# A trace that is sent later may be sent to another store, or after the process has ended.
_AT_ONCE = {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"}
# MLflow's own values (120 s, 7 retries with growing pauses) would delay a campaign for minutes. It also retries
# requests that create something, so that a lost answer leaves a duplicate. Without its retries, the repeated recording
# finds what the request of the lost answer created.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class TrackingUnavailable(ServiceFailed):
    """MLflow could not be read or written; the message names the store and the cause.

    The next call records what is missing.
    """


def tracking_uri(runs: Path) -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI if it is set, else the SQLite file runs/mlflow.db.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    return os.environ.get(_ADDRESS) or f"{_SQLITE}{runs.resolve() / 'mlflow.db'}"


def store_exists(runs: Path) -> bool:
    """Return whether the store can contain anything; False only for a SQLite file that does not exist."""
    uri = tracking_uri(runs)
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).exists()


def ensure_store(runs: Path) -> str:
    """Create the store if it is a SQLite file that does not exist, and return the store's address.

    MLflow creates its tables in many steps that take seconds, and cannot open a file if it was killed between two of
    them. So the tables are created in another file, which is renamed when it is complete.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    uri = tracking_uri(runs)
    path = Path(uri.removeprefix(_SQLITE))
    if store_exists(runs):
        return uri
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # two campaigns may begin at once; a killed process releases the lock
        if not path.exists():
            _make_database(path)
    finally:
        os.close(directory)
    return uri


def _make_database(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.*tmp*"):
        leftover.unlink()
    original, copy = (path.with_name(f".{path.name}.{stage}.tmp") for stage in ("making", "made"))
    with _quiet():
        MlflowClient(f"{_SQLITE}{original}").search_experiments(max_results=1)
    # MLflow keeps the file that it created open until the process ends, so the store is a copy that is open nowhere.
    shutil.copyfile(original, copy)
    os.replace(copy, path)
    original.unlink()


def artifact_location(runs: Path, campaign: str) -> str | None:
    """Return the address of a new experiment's artifacts, beside the runs; None lets a tracking server decide."""
    if is_server(tracking_uri(runs)):
        return None
    return (runs.resolve() / "mlartifacts" / campaign).as_uri()


@contextlib.contextmanager
def connected(runs: Path) -> Iterator[MlflowClient]:
    """Yield a client of the store; every error inside the block is raised as `TrackingUnavailable`.

    If a server accepts a request and does not answer within 15 s (or MLFLOW_HTTP_REQUEST_TIMEOUT), that request ends
    the block.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    uri = tracking_uri(runs)
    # The address is set in the environment as well: MLflow's SQL registry looks a model up through the process-wide
    # address and ignores the client's.
    defaults = {_ADDRESS: uri} | _QUIET | _AT_ONCE | (_IMPATIENT if is_server(uri) else {})
    with _environment(defaults), _quiet():
        try:
            yield MlflowClient(ensure_store(runs))
        except Exception as error:  # each artifact store raises the errors of its own library
            address = without_password(uri)
            cause = " ".join(str(error).split()).replace(uri, address)
            raise TrackingUnavailable(f"MLflow at {address} failed: {type(error).__name__}: {cause}") from error


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in defaults}
    os.environ.update({name: value for name, value in defaults.items() if not before[name]})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
