"""The installed vLLM, best in an environment of its own: its location, and the adapters that it supports.

Does not import vLLM.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import read_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts as the largest rank; an adapter needs the next one that is not below its rank."""
INSTALL = "`pip install vllm`, best in an environment of its own whose `bin` is on the PATH"


def executable() -> Path | None:
    """Return the path of the command `vllm`, beside this Python or on the PATH; None if there is none."""
    beside_python = str(Path(sys.executable).parent)
    command = shutil.which("vllm", path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))
    return None if command is None else Path(command)


def interpreter() -> Path:
    """Return the Python that runs the command `vllm`.

    Raises:
        ValueError: vLLM is not installed, or its command does not name a Python.
    """
    command = executable()
    if command is None:
        raise ValueError(f"vLLM is not installed: {INSTALL}")
    with command.open("rb") as file:
        first = file.readline().decode(errors="replace").strip()
    python = Path(first.removeprefix("#!").strip())
    if not (first.startswith("#!") and python.is_file()):
        raise ValueError(f"{command} does not name an existing Python in its first line: reinstall it with {INSTALL}")
    return python


def adapter_settings(adapter: Path) -> dict[str, object]:
    """Return the settings that peft wrote beside an adapter's weights."""
    return read_json(adapter / "adapter_config.json")


def takes(settings: Mapping[str, object]) -> bool:
    """Return whether vLLM supports an adapter with these settings."""
    return not settings.get("use_dora") and not settings.get("modules_to_save") and _rank(settings) <= RANKS[-1]


def largest_rank(settings: Mapping[str, object], remedy: str) -> int:
    """Return the value of vLLM's largest rank that an adapter needs.

    Raises:
        ValueError: vLLM does not support the adapter; the message ends with the remedy.
    """
    if settings.get("use_dora"):
        raise ValueError(f"vLLM does not support DoRA adapters: {remedy}")
    if settings.get("modules_to_save"):
        raise ValueError(f"vLLM does not support weights that are trained beside an adapter: {remedy}")
    if not takes(settings):
        raise ValueError(f"vLLM supports adapters up to rank {RANKS[-1]}, not {_rank(settings)}: {remedy}")
    return next(allowed for allowed in RANKS if allowed >= _rank(settings))


def _rank(settings: Mapping[str, object]) -> int:
    rank = settings["r"]
    assert isinstance(rank, int), rank
    return rank
