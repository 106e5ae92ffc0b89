"""A forward proxy on loopback that keeps what it is asked for, and answers by itself."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FORMS = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
"""The environment variables that name a proxy, for one library or another."""


class Proxy:
    """Its address, and what it was asked for."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.asked: list[str] = []
        """Method and target of each request, such as `POST http://judge.example/v1/chat/completions`."""

    def environment(self) -> dict[str, str]:
        """Return the variables that send every request to it."""
        return dict.fromkeys(FORMS, self.address)


@contextlib.contextmanager
def counting_proxy(code: int, body: bytes) -> Iterator[Proxy]:
    """Run a proxy that answers every request with a code and a body."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            proxy.asked.append(f"{self.command} {self.path}")
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_CONNECT = answer

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy = Proxy(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield proxy
        server.shutdown()
