"""vLLM as it is installed, best in an environment of its own: where it is, and which adapters it takes.

Imports nothing of it.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import read_json

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for the largest rank; an adapter fits under the next larger one."""
INSTALL = "`pip install vllm`, best in an environment of its own whose `bin` is on the PATH"


def executable() -> Path | None:
    """VLLM's command, beside this Python or on the PATH."""
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which("vllm", path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))
    return None if found is None else Path(found)


def interpreter() -> Path:
    """The Python that vLLM's command runs in.

    Raises:
        ValueError: vLLM is not installed, or its command names no Python.
    """
    command = executable()
    if command is None:
        raise ValueError(f"vLLM is not installed: {INSTALL}")
    with command.open("rb") as file:
        first = file.readline().decode(errors="replace").strip()
    python = Path(first.removeprefix("#!").strip())
    if not (first.startswith("#!") and python.is_file()):
        raise ValueError(f"{command} does not begin with the Python that runs it: {INSTALL}")
    return python


def adapter_settings(adapter: Path) -> dict[str, object]:
    """What peft wrote beside an adapter's weights."""
    return read_json(adapter / "adapter_config.json")


def takes(settings: Mapping[str, object]) -> bool:
    """Whether vLLM takes an adapter with these settings."""
    return not settings.get("use_dora") and _rank(settings) <= RANKS[-1]


def largest_rank(settings: Mapping[str, object], remedy: str) -> int:
    """The largest rank that vLLM must be told for an adapter.

    Raises:
        ValueError: It does not take the adapter; ends with the remedy.
    """
    if settings.get("use_dora"):
        raise ValueError(f"vLLM takes no DoRA adapters: {remedy}")
    if not takes(settings):
        raise ValueError(f"vLLM takes adapters up to rank {RANKS[-1]}, not {_rank(settings)}: {remedy}")
    return next(allowed for allowed in RANKS if allowed >= _rank(settings))


def _rank(settings: Mapping[str, object]) -> int:
    rank = settings["r"]
    assert isinstance(rank, int), rank
    return rank
