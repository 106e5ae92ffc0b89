"""Checkpoints within a training run: published atomically, verified before they are resumed from. Knows no loss."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from components.artifacts import digest, file_digest, read_json, sync, write_json
from components.dpo.engine import load_state, save_state
from components.dpo.reference import PairLogps, read_logps, write_logps

KEEP = 2
HASHES = "HASHES.json"
METRICS = "metrics.jsonl"
REFERENCE = "reference.safetensors"
BEST = "best"
"""Directory of the best weights so far."""
LAYOUT = 2
"""Raised if the steps of a training hold other pairs, or a checkpoint other state, than those of an earlier version. A
training continues only from checkpoints of its own layout."""
log = logging.getLogger(__name__)


def save(
    directory: Path,
    engine: Any,
    step: int,
    metrics: list[str],
    *,
    reference: PairLogps | None,
    best: Path | None = None,
) -> None:
    """Publish a checkpoint after `step` optimizer steps; every rank must call it.

    The files are written under a temporary name and hashed. The rename that makes the checkpoint visible comes last, so
    a crash at any moment leaves the one before. The newest `KEEP` checkpoints are kept.

    Args:
        directory: Directory of the checkpoints.
        engine: DeepSpeed engine.
        step: Optimizer steps so far.
        metrics: Metrics of these steps, one JSON line per step.
        reference: The reference's log-probabilities if they follow the policy, else None.
        best: Directory of the best weights of these steps if they are kept, else None.
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
        if reference is not None:
            write_logps(temporary / REFERENCE, reference)
        if best is not None:
            link(best, temporary / BEST)
        _publish(temporary, directory / f"step-{step:06d}", step)
        # One of a later step cannot be used, or the training would have continued from it.
        earlier = [path for path in sorted(directory.glob("step-*")) if int(path.name.removeprefix("step-")) <= step]
        for old in set(directory.glob("step-*")) - set(earlier[-KEEP:]):
            shutil.rmtree(old)
    torch.distributed.barrier()


def _publish(temporary: Path, target: Path, step: int) -> None:
    files = {
        str(path.relative_to(temporary)): file_digest(path) for path in sorted(temporary.rglob("*")) if path.is_file()
    }
    content = {
        "step": step,
        "layout": LAYOUT,
        "num_processes": torch.distributed.get_world_size(),
        "files": files,
    }
    write_json(temporary / HASHES, content | {"digest": digest(content)})
    for path in temporary.rglob("*"):
        sync(path)
    # Only a damaged checkpoint can stand here: an intact one would have been resumed from.
    shutil.rmtree(target, ignore_errors=True)
    os.rename(temporary, target)
    sync(target.parent)


def resume(directory: Path, engine: Any) -> tuple[int, list[str], PairLogps | None]:
    """Restore the newest intact checkpoint; every rank must call it.

    Returns:
        Its step, the metrics lines so far and the reference that was saved with it, if any. (0, [], None) if there is
        no intact checkpoint.
    """
    # One rank decides for all: if a disk returns other bytes to one rank, they must not go on from different steps.
    newest = torch.zeros(1, dtype=torch.long, device=engine.device)
    if torch.distributed.get_rank() == 0:
        newest += _newest_intact_step(directory)
    if torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast(newest, src=0)
    step = int(newest)
    if step == 0:
        return 0, [], None
    checkpoint = directory / f"step-{step:06d}"
    load_state(engine, checkpoint, step)
    return step, (checkpoint / METRICS).read_text().splitlines(), read_logps(checkpoint / REFERENCE)


def best_weights(directory: Path, step: int) -> Path | None:
    """Return where the checkpoint of a step holds the best weights of its steps; None if it holds none."""
    best = directory / f"step-{step:06d}" / BEST
    return best if step and best.is_dir() else None


def link(source: Path, target: Path) -> None:
    """Give files a second directory, without a copy of them if the file system can do so."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _newest_intact_step(directory: Path) -> int:
    for checkpoint in sorted(directory.glob("step-*"), reverse=True):
        defect = _defect(checkpoint)
        if defect is None:
            return int(checkpoint.name.removeprefix("step-"))
        log.warning("checkpoint %s is not used: %s; trying the one before", checkpoint, defect)
    return 0


def _defect(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None.

    It can be the list of hashes, one of the files, the version, or the number of processes.
    """
    try:
        recorded = read_json(checkpoint / HASHES)
        if recorded.pop("digest") != digest(recorded) or checkpoint.name != f"step-{recorded['step']:06d}":
            return f"{HASHES} is damaged"
        damaged = [name for name, sha256 in recorded["files"].items() if file_digest(checkpoint / name) != sha256]
    except (OSError, ValueError, KeyError, AssertionError) as error:
        return f"it is damaged or incomplete ({type(error).__name__})"
    if damaged:
        return f"{damaged[0]} is damaged"
    if recorded.get("layout") != LAYOUT:
        return "an earlier version of this program made it, whose steps held other pairs"
    if recorded["num_processes"] != torch.distributed.get_world_size():
        # DeepSpeed shards the optimizer's state over the ranks, and cannot load the shards of another number of them.
        return (
            f"it was made by {recorded['num_processes']} processes, and these are {torch.distributed.get_world_size()}"
        )
    return None
