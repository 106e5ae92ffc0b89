"""Run the engines and the front before them until the caller is done, and report why an engine exited if it did."""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from components.artifacts import read_json
from components.config import PreferencesConfig
from components.feedback.retention import Retention
from components.feedback.store import STORE, FeedbackStore
from components.records import ServiceFailed
from components.runtime.addresses import LOOPBACK
from components.serving import engines
from components.serving.gateway.canary import Canary
from components.serving.gateway.front import build_front
from components.serving.gateway.gateway import Gateway
from components.serving.gateway.sessions import Door
from components.serving.gateway.upstream import Engine
from components.serving.plan import WILDCARDS, Serving, engine_serving, example_request
from components.serving.server import served

LOOK_EVERY = 1.0
"""Seconds between two looks at whether the engines live."""


@dataclass(frozen=True)
class Challenger:
    """A second model that answers a share of the conversations."""

    serving: Serving
    share: float


@contextlib.contextmanager
def served_to_people(
    serving: Serving, engine: engines.Engine, *, challenger: Challenger | None = None, url: str = ""
) -> Iterator[Callable[[], None]]:
    """Start engines and front, wait until they answer, and yield a function that waits until an engine exits.

    Args:
        serving: The champion, the front's address and its key.
        engine: The engine of both models.
        challenger: The other model of a canary.
        url: Address under which browsers come, if it is not the front's own; a proxy with TLS is before it.

    Raises:
        ServiceFailed: An engine exited by itself, at its start or later.
        ValueError: The file of the thumbs is damaged, or the port was taken meanwhile.
    """
    store = FeedbackStore(serving.directory / STORE)
    store.check()
    config = read_json(serving.directory / "config.json")
    feedback = PreferencesConfig.model_validate(config["preferences"]).feedback
    retention = Retention(store, days=feedback.retention_days)
    with contextlib.ExitStack() as stack:
        waits: list[Callable[..., None]] = []

        def start(planned: Serving, arm: str | None) -> Engine:
            behind = engine_serving(planned)
            waits.append(stack.enter_context(served(behind, engine)))
            address = behind.address.removesuffix("/v1")
            return Engine(address, behind.key, planned.model.round, planned.model.digest, arm)

        champion = start(serving, "champion" if challenger else None)
        other = start(challenger.serving, "challenger") if challenger else None
        gateway = Gateway(
            campaign=serving.directory.name,
            champion=champion,
            challenger=other,
            canary=Canary(challenger.share, other.round, other.model_digest) if challenger and other else None,
            store=store,
            feedback=feedback,
            door=Door(serving.key, secure=url.startswith("https://")),
            hosts=host_names(serving, url),
            example=example_request(serving),
            system_prompt=config["policy"].get("system_prompt", ""),
        )
        stack.enter_context(listening(gateway, host=serving.host, port=serving.port))

        def until_it_ends() -> None:
            while True:
                for wait in waits:
                    wait(LOOK_EVERY / len(waits))
                retention.look()

        yield until_it_ends


def host_names(serving: Serving, url: str) -> Collection[str]:
    """Return the names under which browsers may ask for the pages.

    With an address for all of this machine's, its name is one of them; others come by `--url`.
    """
    names = {serving.host} if serving.host not in WILDCARDS else {socket.gethostname(), socket.getfqdn()}
    named = urlsplit(url).hostname
    return {*names, LOOPBACK, "localhost", "::1", *([named] if named else [])}


@contextlib.contextmanager
def listening(gateway: Gateway, *, host: str, port: int) -> Iterator[None]:
    """Run the front in a thread of this process while the block lasts."""
    listener = _bound(host, port)
    config = uvicorn.Config(
        build_front(gateway),
        access_log=False,  # no address and no text of a user belongs in a log
        log_config=None,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="front", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise ServiceFailed(f"the front could not start on port {port}")
            time.sleep(0.02)
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use by now: choose another with --port") from None
        raise
    return listener
