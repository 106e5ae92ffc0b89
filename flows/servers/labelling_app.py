"""The labelling server as we start it, in the foreground or under supervisord: its addresses, and what it ticks.

uvicorn calls `create_app`.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from components.campaign.state import runs_directory
from components.runtime.addresses import LOOPBACK, LOOPBACK_NAMES
from components.web.guard import App

LABEL_PORT, LABEL_URL = "RATCHET_LABEL_PORT", "RATCHET_LABEL_URL"
"""Environment variables of the page's port, and of its public address if a proxy stands before it."""
DEFAULT_PORT = 4300


def page_address(url: str | None) -> str:
    """Return the address of the page for people: the public one, or that on this machine."""
    return url.rstrip("/") if url else f"http://{LOOPBACK}:{os.environ.get(LABEL_PORT) or DEFAULT_PORT}"


def _ticks(page: str) -> list[Callable[[], None]]:
    """Return what is done every two seconds: let rounds go on, if there is a Prefect server whose runs wait."""
    from flows.prefect_page.continuing import WaitingRounds
    from flows.servers.addresses import chosen_api

    try:
        api = chosen_api(runs_directory())
    except ValueError:
        return []
    return [WaitingRounds(runs_directory(), api, page=page).look]


def labelling_command(port: int) -> list[str]:
    """Return the command that serves the page on a port of the loopback interface."""
    sources, factory = str(Path(__file__).parents[2]), f"{__name__}:create_app"
    application = ["--app-dir", sources, "--factory", factory, "--lifespan", "on", "--no-server-header"]
    address = ["--host", LOOPBACK, "--port", str(port), "--log-level", "warning", "--no-access-log"]
    proxy = ["--proxy-headers" if os.environ.get(LABEL_URL) else "--no-proxy-headers"]
    return [sys.executable, "-m", "uvicorn", *application, *address, *proxy]


def create_app() -> App:
    """Return the page over RATCHET_RUNS, for the hosts of this machine and of RATCHET_LABEL_URL.

    Raises:
        ValueError: RATCHET_LABEL_URL is not a URL.
    """
    return app_at(os.environ.get(LABEL_URL) or None)


def app_at(url: str | None) -> App:
    """Return the page.

    Args:
        url: Its public address; None if only this machine asks for it.

    Raises:
        ValueError: It is not a URL.
    """
    from components.labelling.app import create_app

    hosts = [*LOOPBACK_NAMES, *([public_host(url)] if url is not None else [])]
    page = page_address(url)
    return create_app(runs_directory(), hosts=hosts, url=page, ticks=_ticks(page))


def public_host(url: str) -> str:
    """Return the host of the page's public address.

    Raises:
        ValueError: It is not such an address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"--url = {url} is not the address of a server: use something like https://labels.example")
    return parts.hostname
