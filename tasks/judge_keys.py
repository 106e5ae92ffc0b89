"""The keys of judges' endpoints that Prefect stores: from Secret blocks into this process's environment only."""

import os

from prefect.blocks.system import Secret

from components.config import JudgeConfig
from components.judges.chat.credentials import key_variable

PREFECT = "prefect:"


def provide_keys(judge: JudgeConfig) -> None:
    """Copy the keys of a judge's endpoints from Secret blocks into the environment, where its client looks for them.

    Raises:
        ValueError: A block does not exist, or does not hold a key; one line with the remedy.
    """
    for source in sorted({settings.endpoint.api_key_from for settings in (judge, *judge.jurors)}):
        if source.startswith(PREFECT):
            os.environ[key_variable(source)] = _secret(source.removeprefix(PREFECT))


def _secret(block: str) -> str:
    try:
        loaded = Secret.load(block)
    except ValueError:
        raise ValueError(
            f"endpoint.api_key_from = {PREFECT}{block}: the Secret block {block} does not exist: "
            "add it on the Prefect page under Blocks, or use env:NAME"
        ) from None
    assert isinstance(loaded, Secret)
    key = loaded.get()
    if not isinstance(key, str) or not key.strip():
        raise ValueError(
            f"endpoint.api_key_from = {PREFECT}{block}: the Secret block {block} does not hold a key: put the key there"
        )
    return key
