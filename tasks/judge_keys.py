"""The keys of judges' endpoints that Prefect keeps.

From Secret blocks into this process's environment, and nowhere else.
"""

import os

from prefect.blocks.system import Secret

from components.config import JudgeConfig
from components.judges.chat.credentials import key_variable

PREFECT = "prefect:"


def provide_keys(judge: JudgeConfig) -> None:
    """Puts the keys that a judge's endpoints take from blocks where its client, here or in a child process, looks for them.

    Raises:
        ValueError: There is no such block, or it holds no text; one line with the remedy.
    """
    for source in sorted({settings.endpoint.api_key_from for settings in (judge, *judge.jurors)}):
        if source.startswith(PREFECT):
            os.environ[key_variable(source)] = _secret(source.removeprefix(PREFECT))


def _secret(block: str) -> str:
    try:
        loaded = Secret.load(block)
    except ValueError:
        raise ValueError(
            f"endpoint.api_key_from = {PREFECT}{block}, and there is no Secret block {block}: add it on the Prefect page under Blocks, "
            "or use env:NAME"
        ) from None
    assert isinstance(loaded, Secret)
    key = loaded.get()
    if not isinstance(key, str) or not key.strip():
        raise ValueError(
            f"endpoint.api_key_from = {PREFECT}{block}: the Secret block {block} holds no text: put the key there"
        )
    return key
