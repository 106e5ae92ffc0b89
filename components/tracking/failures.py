"""Tell an outage of MLflow, which passes, from a failure that needs somebody. Knows no campaign.

Every library below MLflow raises its own errors, and MLflow wraps some of them in one that says little. So the whole
chain of causes is looked at.
"""

import errno
import re
from collections.abc import Iterator

import requests
from mlflow.exceptions import RestException
from sqlalchemy.exc import DBAPIError

from components.records import ServiceFailed
from components.runtime.addresses import without_password

MAX_CAUSE = 300
"""Largest number of characters of a library's message that we repeat."""


class TrackingUnavailable(ServiceFailed):
    """MLflow could not be read or written; the message names the store and the cause.

    The next call records what is missing.
    """


class TrackingRefused(TrackingUnavailable):
    """MLflow cannot take the record, now or later, until somebody changes something; the message says what."""


_OUTAGES = (
    ConnectionError,
    TimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.RetryError,  # MLflow's client turns the statuses 408, 429, 500, 502, 503 and 504 into it
    requests.exceptions.ChunkedEncodingError,
)
# Named, because boto3 is an extra.
_S3_OUTAGES = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"}
_DATABASE_OUTAGE = re.compile(
    r"locked|connection refused|could not (connect|translate)|closed the connection|starting up|shutting down|"
    r"terminating connection|timed? ?out|too many clients|no route|unreachable|reset by peer",
    re.IGNORECASE,
)
_DRIVERS = {"boto3": "s3", "botocore": "s3", "psycopg2": "postgres", "psycopg": "postgres"}
_FULL = (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception, uri: str) -> TrackingUnavailable:
    """Return what a library's error means for the record, in one line.

    Args:
        error: The error.
        uri: Address of the store.
    """
    address = without_password(uri)
    chain = list(_chain(error))
    cause = _in_one_line(error).replace(uri, address)
    remedy = _remedy(chain)
    if remedy is None and any(_may_pass(each) for each in chain):
        return TrackingUnavailable(f"MLflow at {address} failed: {cause}")
    return TrackingRefused(f"MLflow at {address} cannot record this, now or later: {cause}{remedy or ''}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _in_one_line(error: Exception) -> str:
    # A database's error goes on with the statement and its parameters.
    text = " ".join(str(error).partition("[SQL:")[0].split())
    return f"{type(error).__name__}: {text if len(text) <= MAX_CAUSE else f'{text[:MAX_CAUSE]}…'}"


def _remedy(chain: list[BaseException]) -> str | None:
    """Return what to do, if the error is one of those that never pass; None for all others."""
    for error in chain:
        if isinstance(error, ModuleNotFoundError):
            extra = _DRIVERS.get(str(error.name).partition(".")[0])
            return f": pip install 'dpo-ratchet[{extra}]'" if extra else f": install {error.name}"
        if (isinstance(error, OSError) and error.errno in _FULL) or "disk is full" in str(error):
            return ": free some space on that disk"
        if isinstance(error, requests.exceptions.SSLError):
            return ": name the authority of its certificate in REQUESTS_CA_BUNDLE"
        if _status(error) in (401, 403) and _is_of_s3(error):
            return ": check the rights of this user's keys on that bucket"
        if _status(error) in (401, 403):
            return (
                ": give this user the right to write there (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN), or this address a place in the server's --allowed-hosts"
            )
    return None


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return bool(error.connection_invalidated or _DATABASE_OUTAGE.search(str(error.orig)))
    if _is_of_s3(error):
        return type(error).__name__ in _S3_OUTAGES or (_status(error) or 0) >= 500
    return isinstance(error, _OUTAGES) or (_status(error) or 0) >= 500


def _is_of_s3(error: BaseException) -> bool:
    return type(error).__module__.startswith("botocore")


def _status(error: BaseException) -> int | None:
    """Return the HTTP status with which a server answered; None if the error is of another kind."""
    if isinstance(error, RestException):
        return int(error.get_http_status_code())
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # of botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(error, requests.HTTPError) and response is not None:
        return int(response.status_code)
    stated = re.search(r"failed with error code (\d{3}) != ", str(error))  # MLflow, of an answer that is not JSON
    return int(stated[1]) if stated else None
