"""Where an endpoint's API key is. Reads it from the environment only, and never writes it anywhere."""

import os
import re

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
        raise ValueError(f"endpoint.api_key_from = {endpoint.api_key_from}, and {variable} is not set: put the key there")
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"endpoint.api_key_from = {endpoint.api_key_from}: what {variable} holds is no key, it has characters of no header"
        )
    return key
