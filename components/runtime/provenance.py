"""Which code ran. Knows nothing of campaigns."""

import importlib.metadata
import subprocess
from pathlib import Path


def git_sha() -> str:
    """Commit of the checkout that this code runs from, `-dirty` if it was changed.

    The package's version outside a checkout.
    """
    here = Path(__file__).parents[1]
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        described = None
    if described is not None and described.returncode == 0 and described.stdout.strip():
        return described.stdout.strip()
    return importlib.metadata.version("dpo-ratchet")
