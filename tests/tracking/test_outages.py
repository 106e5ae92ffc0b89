"""MLflow away at the beginning, in the middle, at the end, or silent.

The recording gives up soon, and the next one completes it.
"""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.runtime.ports import free_port
from components.tracking import Tracked, TrackingUnavailable
from components.tracking.store import _IMPATIENT


class Relay:
    """Stands between a client and an HTTP server on the loopback interface, and fails at a chosen request."""

    def __init__(self, server_port: int) -> None:
        self.server_port, self.listener = server_port, socket.create_server(("127.0.0.1", 0))
        self.behind = f"http://127.0.0.1:{server_port}"
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.undisturbed = ""
        self.mend()
        threading.Thread(target=self._accept, daemon=True).start()

    def mend(self) -> None:
        self.requests, self.fails_at, self.failure, self.upload_seconds = 0, 0, "", 0.0

    def fail(self, request: int, failure: str) -> None:
        """`reset`: the request never arrives; `lost`: the server does it and its answer is lost.

        `silent`: nobody ever answers.

        All later requests meet the same.
        """
        self.requests, self.fails_at, self.failure = 0, request, failure

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.server_port)) as server:
            uploads = threading.Event()
            answers = threading.Thread(target=self._answer, args=[server, client, uploads], daemon=True)
            answers.start()
            while data := _received(client):
                self.requests += data.count(b" HTTP/1.1\r\n")
                failing = bool(self.failure) and self.requests >= self.fails_at
                if failing and self.failure == "reset":
                    break
                if data.startswith(b"PUT ") and b".safetensors " in data.partition(b"\r\n")[0]:
                    uploads.set()
                if not (failing and self.failure == "silent"):
                    server.sendall(data)
            _end(server)
            _end(client)

    def _answer(self, server: socket.socket, client: socket.socket, uploads: threading.Event) -> None:
        while data := _received(server):
            if uploads.is_set():
                time.sleep(self.upload_seconds)  # a proxy answers once it has passed the file on
                uploads.clear()
            if self.failure and self.requests >= self.fails_at:
                if self.failure == "silent":
                    return
                break
            client.sendall(data)
        _end(client)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # closing alone tells nobody while the other thread still reads


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(2**16)
    except OSError:
        return b""


@pytest.fixture(scope="module")
def way(server_port: int) -> Iterator[Relay]:
    relay = Relay(server_port)
    yield relay
    relay.close()


@pytest.fixture
def relay(way: Relay, build: Any, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """A way to the server that can fail, which recordings take; and a round to record."""
    build(1)
    way.mend()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", way.address)
    return way


@pytest.fixture
def copied(runs: Path) -> Callable[[str], str]:
    """Copy the campaign under a name that the server does not know."""

    def copy(name: str) -> str:
        shutil.copytree(runs / "demo", runs / name)
        return name

    return copy


@pytest.fixture
def usual_requests(relay: Relay, copied: Callable[[str], str], record_again: Callable[..., Tracked]) -> int:
    """How many requests a recording takes that nothing disturbs; the server then has it as `relay.undisturbed`."""
    # MLflow's client asks a server that it does not know for more, so the second time counts.
    for name in (f"demo-{time.monotonic_ns()}", f"demo-{time.monotonic_ns()}-undisturbed"):
        relay.mend()
        record_again(1, copied(name))
    relay.undisturbed = name
    return relay.requests


@pytest.mark.parametrize("failure", ["reset", "lost"])
def test_record_round_server_lost_at_any_moment_is_completed_by_the_next_call(
    failure: str,
    relay: Relay,
    usual_requests: int,
    see: Callable[[str], Any],
    copied: Callable[[str], str],
    record_again: Callable[..., Tracked],
) -> None:
    expected = see(relay.behind).everything(relay.undisturbed)
    for moment, request in {"beginning": 1, "middle": usual_requests // 2, "end": usual_requests}.items():
        name = copied(f"demo-{moment}-{failure}")
        relay.fail(request, failure)
        with pytest.raises(TrackingUnavailable, match=relay.address):
            record_again(1, name)
        relay.mend()
        record_again(1, name)
        assert see(relay.behind).everything(name) == expected, moment
        assert see(relay.behind).running(name) == [], moment


def test_record_round_silent_server_is_waited_for_once(
    relay: Relay,
    usual_requests: int,
    copied: Callable[[str], str],
    record_again: Callable[..., Tracked],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    for request in (1, usual_requests // 3, 2 * usual_requests // 3, usual_requests):
        name = copied(f"demo-silent-{request}")
        relay.fail(request, "silent")
        with pytest.raises(TrackingUnavailable):
            record_again(1, name)
        assert relay.requests == request, "it went on asking"


def test_record_round_unreachable_server_raises_within_seconds_and_ships_later(
    runs: Path, build: Any, record_again: Callable[..., Tracked], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(1)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(TrackingUnavailable, match=f"127.0.0.1:{port}") as caught:
        record_again(1)
    assert time.monotonic() - started < 20
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert record_again(1).model_version == 1


def test_record_round_upload_that_takes_longer_than_an_answer_may_is_waited_for(
    relay: Relay,
    see: Callable[[str], Any],
    copied: Callable[[str], str],
    record_again: Callable[..., Tracked],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(_IMPATIENT, "MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    name = copied(f"demo-slow-{time.monotonic_ns()}")
    relay.upload_seconds = 6.0
    tracked = record_again(1, name)
    assert tracked.model_version == 1
    assert see(relay.behind).running(name) == []


def test_record_round_experiment_deleted_in_mlflow_says_how_to_bring_it_back(
    store: Any, record: Callable[..., Tracked], record_again: Callable[..., Tracked]
) -> None:
    tracked = record(1)
    store.client.delete_experiment(tracked.experiment_id)
    with pytest.raises(TrackingUnavailable, match=f"mlflow experiments restore -x {tracked.experiment_id}"):
        record_again(1)
