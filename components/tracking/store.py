"""Where MLflow's store is and how it is spoken to: quietly, with short waits, and with one error for every outage.

Knows nothing of campaigns but the place of their files.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from mlflow import MlflowClient

from components.tracking.views import VIEW_KEY

_ADDRESS = "MLFLOW_TRACKING_URI"
_QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
# MLflow's own values (120 s, 7 retries with growing pauses) would hold a campaign up for minutes. It also retries requests that create
# something, so that a lost answer leaves a twin; without its retries, the repeated recording finds what the lost answer was about.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class TrackingUnavailable(Exception):
    """MLflow could not be written; the message names the store and the cause. What was missed is recorded by the next call."""


def tracking_uri(runs: Path) -> str:
    """Address of the store: MLFLOW_TRACKING_URI if it is set, else the SQLite file runs/mlflow.db.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    return os.environ.get(_ADDRESS) or f"sqlite:///{_database(runs)}"


def store_exists(runs: Path) -> bool:
    """Whether there can be anything in the store: making the SQLite file only to find it empty would take seconds."""
    return _ADDRESS in os.environ or _database(runs).exists()


def _database(runs: Path) -> Path:
    return runs.resolve() / "mlflow.db"


def artifact_location(runs: Path, campaign: str) -> str | None:
    """Where a new experiment keeps its artifacts: beside the runs, or, with a tracking server, wherever that decides (None)."""
    if _is_server(tracking_uri(runs)):
        return None
    return (runs.resolve() / "mlartifacts" / campaign).as_uri()


@contextlib.contextmanager
def connected(runs: Path) -> Iterator[MlflowClient]:
    """Gives a client of the store; whatever goes wrong with it inside the block is raised as `TrackingUnavailable`.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    uri = tracking_uri(runs)
    # The address goes into the environment as well: MLflow's SQL registry looks a model up through the process-wide address,
    # whatever the client was made for.
    defaults = {_ADDRESS: uri} | _QUIET | (_IMPATIENT if _is_server(uri) else {})
    with _environment(defaults), _quiet("alembic", "mlflow.store.db.utils"):
        try:
            yield MlflowClient(uri)
        except Exception as error:  # each artifact store raises the errors of its own library
            cause = " ".join(str(error).split())
            raise TrackingUnavailable(f"MLflow at {without_password(uri)} was not written: {type(error).__name__}: {cause}") from error


def experiment_url(uri: str, experiment_id: str) -> str:
    """Page that shows a campaign's rounds side by side, if `uri` is an MLflow server's address; else `uri`, which has no pages."""
    # Without the work flow in the address a fresh browser lands on the overview of traces, whatever the experiment's tags say.
    return _page(uri, f"experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}")


def compare_url(uri: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Page that sets runs side by side, if `uri` is an MLflow server's address; else `uri`, which has no pages."""
    runs, experiments = (quote(json.dumps(list(ids), separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return _page(uri, f"compare-runs?runs={runs}&experiments={experiments}")


def _page(uri: str, path: str) -> str:
    address = without_password(uri)
    return f"{address.rstrip('/')}/#/{path}" if _is_server(uri) else address


def without_password(uri: str) -> str:
    """The address as it may be shown: user name and password are left out."""
    parts = urlsplit(uri)
    return uri.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else uri


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
