"""A front before stand-ins of engines, on a real port."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from components.config import FeedbackConfig
from components.feedback.store import STORE, FeedbackStore
from components.runtime.ports import free_port
from components.serving.gateway.canary import Canary
from components.serving.gateway.gateway import Gateway
from components.serving.gateway.running import listening
from components.serving.gateway.sessions import CSRF_HEADER, Door
from tests.serving.engine_stand_in import StandIn, running

KEY = "key-of-the-front-door"
QUESTION = [{"role": "user", "content": "Hello?"}]


@dataclass
class Site:
    """What a test talks to."""

    port: int
    store: FeedbackStore
    champion: StandIn
    challenger: StandIn | None
    bearer: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Ask as a client with the key does."""
        request = {"model": "served", "messages": QUESTION} | body
        return httpx.post(
            f"{self.address}/v1/chat/completions", json=request, headers=self.bearer | (headers or {}), timeout=30
        )

    def rate(self, **changes: Any) -> httpx.Response:
        """Send a thumb as a client with the key does."""
        content = {
            "client_id": "c1",
            "conversation_id": "v1",
            "messages": QUESTION,
            "response": "Good day.",
            "thumb": "up",
            "consent": True,
        }
        return httpx.post(f"{self.address}/feedback", json=content | changes, headers=self.bearer, timeout=30)

    @contextlib.contextmanager
    def browser(self) -> Iterator[httpx.Client]:
        """A browser that is signed in, and sends its page's token."""
        with httpx.Client(base_url=self.address) as client:
            greeting = client.post("/session", json={"key": KEY}).json()
            client.headers[CSRF_HEADER] = greeting["csrf"]
            yield client


@contextlib.contextmanager
def site(
    directory: Path,
    champion: StandIn,
    challenger: StandIn | None = None,
    *,
    share: float = 0.5,
    feedback: FeedbackConfig | None = None,
    ends_engine: bool = False,
) -> Iterator[Site]:
    """Run engines and front while the block lasts."""
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(contextlib.ExitStack())
        engine.enter_context(running(champion))
        if challenger is not None:
            stack.enter_context(running(challenger))
        store, port = FeedbackStore(directory / STORE), free_port()
        gateway = Gateway(
            campaign="served",
            champion=champion.engine(arm="champion" if challenger else None),
            challenger=challenger.engine(round=2, arm="challenger") if challenger else None,
            canary=Canary(share, 2, "digest-2") if challenger else None,
            store=store,
            feedback=feedback or FeedbackConfig(),
            door=Door(KEY, secure=False),
            hosts={"127.0.0.1", "localhost"},
            example={"model": "served", "messages": QUESTION, "max_tokens": 24},
            system_prompt="",
        )
        stack.enter_context(listening(gateway, host="127.0.0.1", port=port))
        if ends_engine:
            engine.close()
        yield Site(port, store, champion, challenger)
