"""A chat endpoint on loopback that answers by a script, with the faults of real ones.

Tests take it by the fixture `chat_server`.

    server = chat_server(lambda request: '{"verdict": "A", "reason": "short"}', faults=[status(500), hang, None, reset])
    config = JudgeConfig(kind="llm", endpoint=server.endpoint(concurrency=1))

The first requests meet the faults in their order (None is none), all later ones are answered. A script may return a
fault instead of a text, such as `status(400, "content filter")` for one of the prompts.
"""

import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], None]
Script = Callable[[dict[str, Any]], str | Fault]
"""Maps a request's JSON to the answer's text, or to the fault that it meets."""
PAGE, MOVED_PAGE = "/v1/chat/completions", "/v2/chat/completions"


class ChatServer:
    """The running endpoint and its requests."""

    def __init__(self, script: Script, faults: Sequence[Fault | None]) -> None:
        self.script, self.faults = script, list(faults)
        self.requests: list[dict[str, Any]] = []
        """The JSON of every request, faulty ones too, in order."""
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.connections = 0
        self.most_at_a_time = self.at_a_time = 0
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"chat": self}))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def endpoint(self, **settings: Any) -> dict[str, Any]:
        """Return the section `endpoint` of a judge that asks this server."""
        return {"url": self.url, "model": "scripted", "timeout_seconds": 20.0, **settings}

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    """Serve /v1/chat/completions, and /v2/chat/completions for redirects."""

    protocol_version = "HTTP/1.1"
    chat: ChatServer
    request_json: dict[str, Any]

    def setup(self) -> None:
        super().setup()
        with self.chat.lock:
            self.chat.connections += 1

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:
            self.close_connection = True  # the client was stopped
            return
        chat, self.request_json = self.chat, json.loads(content)
        with chat.lock:
            chat.requests.append(self.request_json)
            chat.headers.append({name.lower(): value for name, value in self.headers.items()})
            chat.times.append(time.monotonic())
            chat.paths.append(self.path)
            fault = chat.faults.pop(0) if chat.faults else None
            chat.at_a_time += 1
            chat.most_at_a_time = max(chat.most_at_a_time, chat.at_a_time)
        try:
            if self.path not in (PAGE, MOVED_PAGE):
                self.send(404, b'{"error": {"message": "no such page"}}')
            else:
                self.answer(chat.script(self.request_json) if fault is None else fault)
        finally:
            with chat.lock:
                chat.at_a_time -= 1

    def answer(self, answer: str | Fault) -> None:
        if isinstance(answer, str):
            self.send(200, completion(self.request_json, answer))
        else:
            answer(self)

    def scripted(self) -> bytes:
        """Return the body of the script's answer."""
        text = self.chat.script(self.request_json)
        assert isinstance(text, str)
        return completion(self.request_json, text)

    def send(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: tests check the requests."""


def completion(request: dict[str, Any], text: str, finish: str = "stop") -> bytes:
    """Return the answer's body; every four characters count as a token."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps(completion_of(request, [choice], answer_tokens=len(text) // 4)).encode()


def completion_of(request: dict[str, Any], choices: Any, *, answer_tokens: int) -> dict[str, Any]:
    """Return a body with these choices."""
    asked = sum(len(message["content"]) for message in request["messages"])
    usage = {"prompt_tokens": asked // 4, "completion_tokens": answer_tokens}
    return {"object": "chat.completion", "model": request["model"], "choices": choices, "usage": usage}


def quoted_texts(request: dict[str, Any]) -> list[str]:
    """Return the texts that a judge's question holds as data, in order.

    The conversation, then answers and whatever else is judged.
    """
    # Before the first of them the notice shows what the markers look like.
    return [
        part.split("\n<<end of data")[0].split(">>\n", 1)[1]
        for part in request["messages"][0]["content"].split("<<data ")[2:]
    ]


def status(code: int, message: str = "scripted", **headers: str) -> Fault:
    """Answer with an HTTP status, such as `status(429, Retry_After="2")`."""
    return lambda handler: handler.send(code, json.dumps({"error": {"message": message}}).encode(), **headers)


def body(content: bytes) -> Fault:
    """Answer 200 with these bytes."""
    return lambda handler: handler.send(200, content)


def says(text: str, finish: str = "stop") -> Fault:
    """Answer in the right form with another text than the script's."""

    def fault(handler: Handler) -> None:
        handler.send(200, completion(handler.request_json, text, finish))

    return fault


def message(finish: str | None = "stop", **fields: Any) -> Fault:
    """Answer with a message of these fields, such as `message(content=None, refusal="no")`."""
    return choices([{"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}])


def choices(content: Any, **fields: Any) -> Fault:
    """Answer with these choices and more fields of the body; ten tokens are charged."""

    def fault(handler: Handler) -> None:
        completed = completion_of(handler.request_json, content, answer_tokens=10)
        handler.send(200, json.dumps(completed | fields).encode())

    return fault


def unasked_encoding(encode: Callable[[bytes], bytes], encoding: str) -> Fault:
    """Answer by the script, in an encoding that the client did not ask for; no header tells it if the name is empty."""

    def fault(handler: Handler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        headers = {"Content_Encoding": encoding} if encoding else {}
        handler.send(200, encode(handler.scripted()), **headers)

    return fault


def redirect(code: int, location: str) -> Fault:
    """Send the client from the usual page to another address; answer by the script on the other page."""

    def fault(handler: Handler) -> None:
        if handler.path == PAGE:
            handler.send(code, b"", Location=location)
        else:
            handler.send(200, handler.scripted())

    return fault


def breaks_off(handler: Handler) -> None:
    """Promise an answer with status 200 and send half of it."""
    content = completion(handler.request_json, "x" * 100)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def hang(handler: Handler) -> None:
    """Send nothing as long as the server runs."""
    handler.chat.closing.wait()
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Break the connection with a TCP reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def drip(handler: Handler) -> None:
    """Send a valid answer, one byte every tenth of a second."""
    content = handler.scripted()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        for byte in content:
            handler.wfile.write(bytes([byte]))
            if handler.chat.closing.wait(0.1):
                return


def huge(handler: Handler) -> None:
    """Answer in the right form with 10 MB."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.send(200, completion(handler.request_json, "x" * 10_000_000))


def bomb(handler: Handler) -> None:
    """Answer with 10 MB that are compressed to a few KB."""
    content = gzip.compress(completion(handler.request_json, "x" * 10_000_000))
    handler.send(200, content, Content_Encoding="gzip")


empty: Fault = body(b"")
no_json: Fault = body(b"<html>Bad gateway</html>")
