"""Judges and proxies: one on this machine is asked directly, one elsewhere through the proxy of the environment."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.config import EndpointConfig
from components.judges.chat.client import Chat, Question
from tests.judges.chat_server import ChatServer, completion
from tests.proxy import FORMS, counting_proxy

Start = Callable[..., ChatServer]
QUESTION = Question([{"role": "user", "content": "which?"}], {})
ANSWER = "the first"


@pytest.fixture(autouse=True)
def no_proxy_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*FORMS, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("form", FORMS)
def test_judge_on_this_machine_is_never_asked_through_a_proxy(
    form: str, chat_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = chat_server(lambda request: ANSWER)
    with counting_proxy(403, b"no") as proxy:
        monkeypatch.setenv(form, proxy.address)
        monkeypatch.setenv("JUDGE_KEY", "sk-judge-0123456789")
        endpoint = EndpointConfig(**server.endpoint(api_key_from="env:JUDGE_KEY"))
        (reply,) = Chat(endpoint, cache=tmp_path).ask([QUESTION], "texts")
    assert reply.value == {"text": ANSWER}
    assert proxy.asked == [], "it would have got the key"


@pytest.mark.parametrize("form", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_judge_elsewhere_is_asked_through_the_proxy(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counting_proxy(200, completion({"model": "far", "messages": []}, ANSWER)) as proxy:
        monkeypatch.setenv(form, proxy.address)
        endpoint = EndpointConfig(url="http://judge.example/v1", model="far", timeout_seconds=20.0)
        (reply,) = Chat(endpoint, cache=tmp_path).ask([QUESTION], "texts")
    assert reply.value == {"text": ANSWER}
    assert proxy.asked == ["POST http://judge.example/v1/chat/completions"]


@contextlib.contextmanager
def socks_proxy(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Run a SOCKS 5 proxy that answers one HTTP request itself; yield its port and the names that it was asked for."""
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(257)  # version and methods
            connection.sendall(b"\x05\x00")
            request = connection.recv(262)  # version, command, 0, kind 3: a name, its length, the name, the port
            asked.append(request[5 : 5 + request[4]])
            connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
            connection.recv(2**16)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + answer)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(10)


def test_judge_elsewhere_is_asked_through_a_socks_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without its extra for SOCKS, httpx raises ImportError for every client, whatever it asks.
    with socks_proxy(completion({"model": "far", "messages": []}, ANSWER)) as (port, asked):
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        endpoint = EndpointConfig(url="http://judge.example/v1", model="far", timeout_seconds=20.0, concurrency=1)
        (reply,) = Chat(endpoint, cache=tmp_path).ask([QUESTION], "texts")
    assert reply.value == {"text": ANSWER}
    assert asked == [b"judge.example"]
