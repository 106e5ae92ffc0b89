"""What can be known of an endpoint's section before anybody is asked."""

import os
from urllib.parse import urlsplit

from components.config import EndpointConfig
from components.judges.chat.key import key_variable, read_key


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
        raise ValueError(f"endpoint.url names a user or a password for {host}: leave it out, and use endpoint.api_key_from")
    if parts.query or parts.fragment:
        raise ValueError(f"endpoint.url has a query or a fragment after {host}{parts.path}: give the base address only")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"endpoint.url = {url} names a page: give the base address, {url.rstrip('/').removesuffix('/chat/completions')}")
