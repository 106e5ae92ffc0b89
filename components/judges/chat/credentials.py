"""An endpoint's API key: where it is, and a check of address and key before a campaign starts.

Never writes the key anywhere.
"""

import os
import re
from urllib.parse import urlsplit

from components.config import EndpointConfig


def key_variable(source: str) -> str:
    """The environment variable that holds the key which `api_key_from` names; a Prefect block's is filled by the tasks.

    Raises:
        ValueError: The source is neither env:NAME nor prefect:BLOCK.
    """
    kind, _, name = source.partition(":")
    if kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return name
    if kind == "prefect" and re.fullmatch(r"[a-z0-9-]+", name):
        return f"RATCHET_SECRET_{name.replace('-', '_').upper()}"
    raise ValueError(
        "endpoint.api_key_from names no place of a key: write env:NAME for an environment variable, or prefect:BLOCK for a Secret block"
    )


def read_key(endpoint: EndpointConfig) -> str | None:
    """The key; None where the endpoint wants none.

    Raises:
        ValueError: It is not where `api_key_from` says.
    """
    if not endpoint.api_key_from:
        return None
    variable = key_variable(endpoint.api_key_from)
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"endpoint.api_key_from = {endpoint.api_key_from}, and {variable} is not set: put the key there"
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"endpoint.api_key_from = {endpoint.api_key_from}: what {variable} holds is no key, it has characters of no header"
        )
    return key


def check_endpoint(endpoint: EndpointConfig) -> None:
    """Looks at the address and the key.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    _check_url(endpoint.url)
    if endpoint.api_key_from.startswith("prefect:") and not os.environ.get(key_variable(endpoint.api_key_from)):
        return  # the task that asks loads the block
    read_key(endpoint)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise ValueError(f"endpoint.url = {url} is no address: write one such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"endpoint.url names a user or a password for {host}: leave it out, and use endpoint.api_key_from"
        )
    if parts.query or parts.fragment:
        raise ValueError(f"endpoint.url has a query or a fragment after {host}{parts.path}: give the base address only")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(
            f"endpoint.url = {url} names a page: give the base address, {url.rstrip('/').removesuffix('/chat/completions')}"
        )
