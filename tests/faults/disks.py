"""A small disk of its own for a test: a tmpfs, which only root may mount."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MEGABYTES = 256


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a small disk within the block; fail, and say why, if that is not allowed here."""
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def mount(*arguments: str) -> None:
    """Run the command `mount`."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(
            f"no disk of its own can be mounted here ({done.stderr.strip()}): run the tests as root, in a container "
            "with the capability SYS_ADMIN"
        )
