"""Where MLflow's store is and how it is spoken to: quietly, with short waits, and with one error for every outage.

Knows nothing of campaigns but the place of their files.
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
from components.tracking.views import is_server, without_password

_SQLITE = "sqlite:///"
_ADDRESS = "MLFLOW_TRACKING_URI"
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# A trace that is sent later may be sent to another store, or after the process has ended.
_AT_ONCE = {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"}
# MLflow's own values (120 s, 7 retries with growing pauses) would hold a campaign up for minutes. It also retries
# requests that create something, so that a lost answer leaves a twin; without its retries, the repeated recording finds
# what the lost answer was about.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class TrackingUnavailable(ServiceFailed):
    """MLflow could not be read or written; the message names the store and the cause.

    What was missed is recorded by the next call.
    """


def tracking_uri(runs: Path) -> str:
    """Address of the store: MLFLOW_TRACKING_URI if it is set, else the SQLite file runs/mlflow.db.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    return os.environ.get(_ADDRESS) or f"{_SQLITE}{runs.resolve() / 'mlflow.db'}"


def store_exists(runs: Path) -> bool:
    """Whether there can be anything in the store; False only for a SQLite file that is not there."""
    uri = tracking_uri(runs)
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).exists()


def ensure_store(runs: Path) -> str:
    """Makes the store if it is a SQLite file that is not there; returns the store's address.

    MLflow makes its tables in many steps that take seconds, and cannot open a file in which it was killed between two
    of them. So they are made in another file, which gets its name when it is complete.

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
        fcntl.flock(directory, fcntl.LOCK_EX)  # two campaigns may begin at once; a killed process lets go
        if not path.exists():
            _make_database(path)
    finally:
        os.close(directory)
    return uri


def _make_database(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.*tmp*"):
        leftover.unlink()
    making, made = (path.with_name(f".{path.name}.{stage}.tmp") for stage in ("making", "made"))
    with _quiet():
        MlflowClient(f"{_SQLITE}{making}").search_experiments(max_results=1)
    # MLflow keeps the file that it made open for the life of the process, so the store is a copy that nobody has open.
    shutil.copyfile(making, made)
    os.replace(made, path)
    making.unlink()


def artifact_location(runs: Path, campaign: str) -> str | None:
    """Where a new experiment keeps its artifacts.

    Beside the runs, or, with a tracking server, wherever that decides (None).
    """
    if is_server(tracking_uri(runs)):
        return None
    return (runs.resolve() / "mlartifacts" / campaign).as_uri()


@contextlib.contextmanager
def connected(runs: Path) -> Iterator[MlflowClient]:
    """Gives a client of the store; whatever goes wrong with it inside the block is raised as `TrackingUnavailable`.

    A server that takes requests and never answers is waited for once, for 15 s (or what MLFLOW_HTTP_REQUEST_TIMEOUT
    says): the first request that it leaves open ends the block.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    uri = tracking_uri(runs)
    # The address goes into the environment as well: MLflow's SQL registry looks a model up through the process-wide
    # address, whatever the client was made for.
    defaults = {_ADDRESS: uri} | _QUIET | _AT_ONCE | (_IMPATIENT if is_server(uri) else {})
    with _environment(defaults), _quiet():
        try:
            yield MlflowClient(ensure_store(runs))
        except Exception as error:  # each artifact store raises the errors of its own library
            shown = without_password(uri)
            cause = " ".join(str(error).split()).replace(uri, shown)
            raise TrackingUnavailable(f"MLflow at {shown} failed: {type(error).__name__}: {cause}") from error


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
