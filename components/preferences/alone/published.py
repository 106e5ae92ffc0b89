"""The directory that a step publishes when it runs alone, for a user and not for a campaign. Knows no step."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.artifacts import MANIFEST, digest, publishing, read_json, verified
from components.runtime import progress

VERSION = 1
STEPS = ("collect", "pairs", "calibrate")


@contextlib.contextmanager
def published(step: str, inputs: dict[str, Any], out: Path) -> Iterator[Path | None]:
    """A directory to write in that replaces `out` when the block ends, or None where `out` already is what would be written.

    Args:
        step: One of `STEPS`.
        inputs: All that the result depends on.
        out: Where it is published.

    Raises:
        ValueError: `out` holds something that no step wrote.
    """
    key = digest({"step": step, "version": VERSION, **inputs})
    _refuse_foreign(out)
    published = verified(out, key)
    if published is not None:
        progress.ended(out.name, step, published.seconds, already_done=True)
        yield None
        return
    began = time.monotonic()
    progress.began(out.name, step)
    with publishing(out, stage=step, version=VERSION, key=key) as workspace:
        yield workspace.path
    progress.ended(out.name, step, time.monotonic() - began, already_done=False)


def _refuse_foreign(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / MANIFEST
    if not manifest.is_file() or read_json(manifest).get("stage") not in STEPS:
        raise ValueError(f"{out} exists and is not what this command writes: choose another directory with --out")
