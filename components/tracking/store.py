"""Connect to MLflow's store: quietly, with short waits, and with one line for every failure.

Knows nothing of campaigns except the path of their files.
"""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.db import utils as database

from components.tracking.failures import TrackingUnavailable, explain
from components.tracking.locations import ARTIFACTS_VARIABLE, artifact_root, name_files_of_earlier_versions
from components.tracking.views import is_server

STORE = "mlflow.db"
"""The store in the directory of the campaigns, unless MLFLOW_TRACKING_URI names another one."""
_SQLITE = "sqlite:///"
_ADDRESS = "MLFLOW_TRACKING_URI"
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# A trace that is sent later may be sent to another store, or after the process has ended.
_AT_ONCE = {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"}
# MLflow's own values (120 s, 7 retries with growing pauses) would delay a campaign for minutes. It also retries
# requests that create something, so that a lost answer leaves a duplicate. Without its retries, the repeated recording
# finds what the request of the lost answer created.
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_IMPATIENT = {_TIMEOUT: "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_DATABASE_ATTEMPTS = 6
# A server that keeps artifacts for others answers an upload only after it has passed the file on.
_UPLOAD_SECONDS, _UPLOAD_BYTES_PER_SECOND = 120, 5_000_000


def tracking_uri(runs: Path) -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI if it is set, else the SQLite file runs/mlflow.db.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    return os.environ.get(_ADDRESS) or _own_store(runs)


def _own_store(runs: Path) -> str:
    return f"{_SQLITE}{runs.resolve() / STORE}"


def is_shared(runs: Path) -> bool:
    """Return whether campaigns of other directories may be in the store; no others are in runs/mlflow.db."""
    return tracking_uri(runs) != _own_store(runs)


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
        if not is_shared(runs):
            name_files_of_earlier_versions(path, runs.resolve() / "mlartifacts")
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
    """Return the address of a new experiment's artifacts; None lets a server of others decide."""
    if is_server(tracking_uri(runs)) and not os.environ.get(ARTIFACTS_VARIABLE):
        return None
    return f"{artifact_root(runs)}/{campaign}"


@contextlib.contextmanager
def connected(runs: Path) -> Iterator[MlflowClient]:
    """Yield a client of the store; every error inside the block is raised as `TrackingUnavailable`.

    If a server accepts a request and does not answer within 15 s (or MLFLOW_HTTP_REQUEST_TIMEOUT), that request ends
    the block. Uploads have more time, see `uploading`.

    Args:
        runs: Directory that holds the campaigns' directories.

    Raises:
        TrackingRefused: The failure will not pass by itself.
        TrackingUnavailable: Anything else.
    """
    uri = tracking_uri(runs)
    # The address is set in the environment as well: MLflow's SQL registry looks a model up through the process-wide
    # address and ignores the client's.
    defaults = {_ADDRESS: uri} | _QUIET | _AT_ONCE | (_IMPATIENT if is_server(uri) else {})
    with _environment(defaults), _quiet(), _few_attempts():
        try:
            yield MlflowClient(ensure_store(runs))
        except TrackingUnavailable:
            raise
        except Exception as error:  # each artifact store raises the errors of its own library
            raise explain(error, uri) from error


@contextlib.contextmanager
def uploading(num_bytes: int) -> Iterator[None]:
    """Wait within the block for as long as an upload may take, unless the user has set MLFLOW_HTTP_REQUEST_TIMEOUT.

    Args:
        num_bytes: Size of the largest file.
    """
    is_ours = os.environ.get(_TIMEOUT) == _IMPATIENT[_TIMEOUT]
    seconds = _UPLOAD_SECONDS + num_bytes // _UPLOAD_BYTES_PER_SECOND
    with _environment({_TIMEOUT: str(seconds)} if is_ours else {}, replaced=(_TIMEOUT,)):
        yield


@contextlib.contextmanager
def _environment(values: Mapping[str, str], *, replaced: Collection[str] = ()) -> Iterator[None]:
    """Set variables within the block; those that the user has set stay, except for the replaced ones."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if name in replaced or not before[name]})
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
    # They print errors with their traceback that they then raise.
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _few_attempts() -> Iterator[None]:
    """Let MLflow wait 6 s within the block for a database that is away, instead of 100 s."""
    before = database.MAX_RETRY_COUNT
    database.MAX_RETRY_COUNT = _DATABASE_ATTEMPTS
    try:
        yield
    finally:
        database.MAX_RETRY_COUNT = before
