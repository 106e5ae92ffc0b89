"""Checkpoints within a training run: published atomically, verified before they are resumed from. Knows no loss."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from components.artifacts import file_digest, read_json, sync, write_json
from components.dpo.engine import load_state, save_state

KEEP = 2
HASHES = "HASHES.json"
METRICS = "metrics.jsonl"
log = logging.getLogger(__name__)


def save(directory: Path, engine: Any, step: int, metrics: list[str]) -> None:
    """Publishes a checkpoint after `step` optimizer steps; every rank must call it.

    The files are written under a temporary name and hashed; the rename that makes the checkpoint visible comes last, so a crash at
    any moment leaves the one before. The newest `KEEP` checkpoints are kept.
    """
    temporary = directory / ".unfinished"
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    torch.distributed.barrier()
    save_state(engine, temporary, step)
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        (temporary / METRICS).write_text("".join(f"{line}\n" for line in metrics))
        files = {str(path.relative_to(temporary)): file_digest(path) for path in sorted(temporary.rglob("*")) if path.is_file()}
        write_json(temporary / HASHES, {"step": step, "files": files})
        for path in temporary.rglob("*"):
            sync(path)
        target = directory / f"step-{step:06d}"
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
        sync(directory)
        for old in sorted(directory.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old)
    torch.distributed.barrier()


def resume(directory: Path, engine: Any) -> tuple[int, list[str]]:
    """Restores the newest intact checkpoint; returns its step and the metrics lines so far, or (0, []) where there is none."""
    for checkpoint in sorted(directory.glob("step-*"), reverse=True):
        step = _intact_step(checkpoint)
        if step is None:
            log.warning("checkpoint %s is damaged; trying the one before", checkpoint)
            continue
        load_state(engine, checkpoint, step)
        return step, (checkpoint / METRICS).read_text().splitlines()
    return 0, []


def _intact_step(checkpoint: Path) -> int | None:
    try:
        recorded = read_json(checkpoint / HASHES)
        intact = all(file_digest(checkpoint / name) == sha256 for name, sha256 in recorded["files"].items())
    except (OSError, ValueError, KeyError):
        return None
    return int(recorded["step"]) if intact else None
