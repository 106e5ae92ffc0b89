"""Identify the code that runs. Knows nothing of campaigns."""

import importlib.metadata
import subprocess
from pathlib import Path


def git_sha() -> str:
    """Return the commit of the checkout that this code runs from, with `-dirty` if it was changed.

    Outside a checkout, return the package's version.
    """
    here = Path(__file__).parents[1]
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        process = None
    if process is not None and process.returncode == 0 and process.stdout.strip():
        return process.stdout.strip()
    return importlib.metadata.version("dpo-ratchet")
