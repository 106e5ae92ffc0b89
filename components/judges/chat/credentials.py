"""An endpoint's API key, and a check of address and key before a campaign starts.

Never writes the key anywhere.
"""

import logging
import os
import re
from urllib.parse import urlsplit

from components.config import EndpointConfig
from components.runtime.addresses import is_loopback

log = logging.getLogger(__name__)


def key_variable(source: str) -> str:
    """Return the environment variable of the key that `api_key_from` names; tasks fill the one of a Prefect block.

    Raises:
        ValueError: The source is neither env:NAME nor prefect:BLOCK.
    """
    kind, _, name = source.partition(":")
    if kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return name
    if kind == "prefect" and re.fullmatch(r"[a-z0-9-]+", name):
        return f"RATCHET_SECRET_{name.replace('-', '_').upper()}"
    raise ValueError(
        "endpoint.api_key_from must be env:NAME, the name of an environment variable, "
        "or prefect:BLOCK, the name of a Secret block"
    )


def read_key(endpoint: EndpointConfig) -> str | None:
    """Return the key; None if the endpoint needs none.

    Raises:
        ValueError: The key is not set, or cannot be sent in a header.
    """
    if not endpoint.api_key_from:
        return None
    variable = key_variable(endpoint.api_key_from)
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"endpoint.api_key_from = {endpoint.api_key_from}, but the environment variable {variable} is not set: "
            "set it to the API key"
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"endpoint.api_key_from = {endpoint.api_key_from}, but the value of {variable} is not an API key: "
            "it must be printable ASCII"
        )
    return key


def check_endpoint(endpoint: EndpointConfig) -> None:
    """Check the address and the key.

    Raises:
        ValueError: One of them cannot be used; one line with the remedy.
    """
    _check_url(endpoint.url)
    if endpoint.api_key_from.startswith("prefect:") and not os.environ.get(key_variable(endpoint.api_key_from)):
        return  # the task that asks loads the block
    key = read_key(endpoint)
    if key and urlsplit(endpoint.url).scheme == "http" and not is_loopback(endpoint.url):
        log.warning("endpoint.url = %s sends the key unencrypted: whoever is on the way can read it", endpoint.url)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in ("http", "https"):
        raise ValueError(f"endpoint.url = {url} is not a URL: use something like http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"endpoint.url contains a user name or a password for {host}: remove it and use endpoint.api_key_from"
        )
    if parts.query or parts.fragment:
        raise ValueError(f"endpoint.url has a query or a fragment after {host}{parts.path}: use the base address only")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        base = url.rstrip("/").removesuffix("/chat/completions")
        raise ValueError(f"endpoint.url = {url} is not a base address: use {base}")
