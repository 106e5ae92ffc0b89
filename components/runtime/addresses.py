"""Addresses of servers: the loopback interface, which no proxy reaches, and what of an address may be shown."""

import contextlib
import ipaddress
import os
import re
from urllib.parse import parse_qsl, urlsplit

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine by its loopback interface."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")


def keep_loopback_off_proxies() -> None:
    """Let this process and its children reach the loopback interface directly, whatever proxies are configured.

    Every library reads NO_PROXY, some prefer it in lower case.
    """
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if listed.strip() == "*":
        return
    names = [name.strip() for name in listed.split(",") if name.strip()]
    value = ",".join([*names, *(name for name in LOOPBACK_NAMES if name not in names)])
    os.environ |= {"no_proxy": value, "NO_PROXY": value}


def without_password(uri: str) -> str:
    """Return the address without user name, password and parameters that hold one, so that it can be shown."""
    # The second form has a password with characters that belong encoded, which SQLAlchemy takes nevertheless.
    shown = re.sub(r"^([a-zA-Z][\w+.-]*://)([^/?#]*@|[^/@:]*:[^@]*@)", r"\1", uri)
    address, _, parameters = shown.partition("?")
    return address if any("password" in name.lower() for name, _ in parse_qsl(parameters)) else shown
