"""A gate before a server, as its own address: closed, it refuses connections; it can also lose an answer.

It is a process of its own, so that its end cuts all connections at once, as that of a server does.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from components.runtime.ports import free_port


class Gate:
    """Passes connections on to a server on the loopback interface."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, *, loses: str = "") -> None:
        """Pass connections on; end instead of passing on the answer to a request with these words."""
        command = [sys.executable, str(Path(__file__)), str(self.port), str(self._target), loses]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        raise AssertionError("the gate does not open")

    @property
    def is_open(self) -> bool:
        """Whether it passes connections on."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Refuse connections, and cut those that there are."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def gate_before(port: int) -> Iterator[Gate]:
    """An open gate before the server on a port of this machine."""
    gate = Gate(port)
    gate.open()
    yield gate
    gate.close()


def serve(port: int, target: int, loses: bytes) -> None:
    """Pass connections on until this process ends."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", target))
            lost = threading.Event()
            threading.Thread(target=_ask, args=[client, server, loses, lost], daemon=True).start()
            threading.Thread(target=_answer, args=[server, client, lost], daemon=True).start()


def _ask(client: socket.socket, server: socket.socket, loses: bytes, lost: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while content := client.recv(65536):
            if loses and loses in content:
                lost.set()
            server.sendall(content)
        server.shutdown(socket.SHUT_WR)


def _answer(server: socket.socket, client: socket.socket, lost: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while content := server.recv(65536):
            if lost.is_set():
                os._exit(0)
            client.sendall(content)
        client.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode())
