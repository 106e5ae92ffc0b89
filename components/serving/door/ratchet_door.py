"""The lock on the model servers of `ratchet serve`, as ASGI middleware. It also starts transformers' server behind it.

vLLM loads this file in its own environment (`--middleware`), where nothing else of ours may be importable: only the
standard library is imported here. vLLM's own key covers some of its routes; /invocations, for one, answers anybody.
"""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

KEY_VARIABLE = "RATCHET_SERVE_KEY"
"""Environment variable of the key; on a command line, every user of the machine could read it."""
OPEN_PATH = "/health"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class KeyRequired:
    """Answer 401 to every request without the key, except to a look at the server's health."""

    def __init__(self, app: App) -> None:
        """Take the key from the environment.

        Raises:
            KeyError: There is none, so nothing may be served.
        """
        self._app, self._expected = app, f"Bearer {os.environ[KEY_VARIABLE]}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            error = {"message": "this server requires its key as a bearer token", "code": "invalid_api_key"}
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})

    def _may_pass(self, scope: Message) -> bool:
        if scope["type"] == "http" and scope["path"] == OPEN_PATH and scope["method"] in ("GET", "HEAD"):
            return True
        tokens = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return len(tokens) == 1 and hmac.compare_digest(tokens[0], self._expected)


def serve_by_transformers() -> None:
    """Run transformers' command line with its server behind the lock."""
    from transformers.cli import transformers as command_line
    from transformers.cli.serving import server

    build = server.build_server

    def build_locked(*arguments: Any, **options: Any) -> KeyRequired:
        return KeyRequired(build(*arguments, **options))

    server.build_server = build_locked
    command_line.app()


if __name__ == "__main__":
    serve_by_transformers()
