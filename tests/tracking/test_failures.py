"""A failure that somebody must mend is told from an outage, with what to do about it."""

import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException

from components.tracking import Tracked, TrackingRefused, TrackingUnavailable
from components.tracking.failures import explain

URI = "postgresql://me:secret@db/mlflow"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bytes], str]]:
    """Start servers that give every request the same answer, and make one the store."""
    servers: list[ThreadingHTTPServer] = []

    def start(code: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_PATCH = do_GET

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "body", [b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}', b"<html>Forbidden</html>"]
)
def test_server_that_forbids_is_no_outage(
    body: bytes, answering: Callable[[int, bytes], str], record: Callable[..., Tracked]
) -> None:
    address = answering(403, body)
    with pytest.raises(TrackingRefused, match=f"MLflow at {address} cannot record this, now or later") as refused:
        record(1)
    assert "MLFLOW_TRACKING_TOKEN" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("code", [500, 503, 429])
def test_server_that_is_unwell_is_an_outage(
    code: int, answering: Callable[[int, bytes], str], record: Callable[..., Tracked]
) -> None:
    address = answering(code, b"oh")
    with pytest.raises(TrackingUnavailable, match=f"MLflow at {address} failed") as away:
        record(1)
    assert not isinstance(away.value, TrackingRefused)


def test_place_that_cannot_be_written_is_no_outage(
    record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_ARTIFACTS", "/proc/nobody/writes/here")
    with pytest.raises(TrackingRefused, match="/proc/nobody"):
        record(1)


def test_schema_of_another_version_is_no_outage(runs: Path, record: Callable[..., Tracked]) -> None:
    with closing(sqlite3.connect(runs / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(TrackingRefused, match="mlflow db upgrade"):
        record(1)


def test_driver_that_is_missing_is_named_with_its_extra(
    record: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    monkeypatch.setenv("RATCHET_ARTIFACTS", "s3://bucket/path")
    with pytest.raises(TrackingRefused, match=r"pip install 'dpo-ratchet\[s3\]'"):
        record(1)
    line = explain(ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2"), URI)
    assert str(line).endswith("ModuleNotFoundError: No module named 'psycopg2': pip install 'dpo-ratchet[postgres]'")
    assert "secret" not in str(line)


class Refused(Exception):
    """As psycopg2's and botocore's errors look from outside."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def wrapped(cause: Exception) -> MlflowException:
    error = MlflowException("it went wrong")
    error.__context__ = cause
    return error


def of_botocore(name: str, status: int | None = None) -> Exception:
    return type(name, (Refused,), {"__module__": "botocore.exceptions"})(name, status)


def of_database(message: str) -> Exception:
    from sqlalchemy.exc import OperationalError

    return OperationalError("SELECT 1", {}, Refused(message))


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        (ConnectionResetError("reset"), True),
        (requests.ConnectionError("refused"), True),
        (requests.exceptions.SSLError("self-signed certificate"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (of_database("database is locked"), True),
        (of_database('connection to server at "db", port 5432 failed: Connection refused'), True),
        (of_database("the database system is starting up"), True),
        (of_database('FATAL: password authentication failed for user "me"'), False),
        (of_database('FATAL: database "mlflow" does not exist'), False),
        (of_database("database or disk is full"), False),
        (of_botocore("EndpointConnectionError"), True),
        (of_botocore("ClientError", 503), True),
        (of_botocore("ClientError", 403), False),
        (of_botocore("NoCredentialsError"), False),
        (ValueError("any error that is not known"), False),
    ],
)
def test_cause_within_mlflows_error_decides_whether_it_passes(cause: Exception, passes: bool) -> None:
    assert isinstance(explain(wrapped(cause), URI), TrackingRefused) is not passes


def test_rights_that_lack_are_those_of_the_store_that_refuses() -> None:
    assert str(explain(wrapped(of_botocore("ClientError", 403)), URI)).endswith("keys on that bucket")
    response = requests.Response()
    response.status_code = 403
    assert "MLFLOW_TRACKING_TOKEN" in str(explain(requests.HTTPError("403 Client Error", response=response), URI))


def test_message_repeats_neither_statements_nor_their_parameters() -> None:
    error = of_database("value too long\n[SQL: INSERT INTO params VALUES ('my prompt')]")
    line = str(explain(error, URI))
    assert "value too long" in line
    assert "my prompt" not in line
    assert len(str(explain(ValueError("x" * 10_000), URI))) < 500
