"""Free disk space of a campaign: unneeded weights, their copies in MLflow, and leftovers of killed processes.

These models stay: the start model, the champion, every model that was ever promoted (a rollback may need it) and the
models of the last rounds (the next round's reference may be the previous one). Pairs, verdicts, metrics and samples
stay too. Of the fp32 masters only the champion's stay: no other model is trained on. Weights are renamed first, then
recorded in the round's collected.json, and only then deleted. If this process is killed at any point, no reader
mistakes half of the weights for a model, and the next collection finishes the job.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from components.artifacts import sync, write_json
from components.campaign.lock import locked
from components.campaign.models import COLLECTED, MASTER, CollectedWeights, collected_weights
from components.campaign.state import State, read_state, round_directory
from components.records import Record, RoundRecord

WEIGHTS = ("model", "adapter")
CHECKPOINTS = "checkpoints"
LEFTOVERS = (".*.tmp-*", ".*.old-*")
HALF_WRITTEN = ".*.tmp"
"""Files that `write_bytes` did not finish, because it was killed."""
HALF_WRITTEN_SECONDS = 3600.0
"""Age at which nobody is writing such a file any more: `ratchet report` writes one without the campaign's lock."""


class Collected(Record):
    """One item that was removed or, in a dry run, would be removed."""

    campaign: str
    round: int | None
    """None for what belongs to no round."""
    what: Literal["weights", "masters", "copy in MLflow", "checkpoints", "leftover"]
    path: str | None
    """Its path; None for a copy in MLflow."""
    num_bytes: int | None
    """Size in bytes; None if it could not be measured."""
    postponed: str | None = None
    """Reason why it still exists; the next collection tries again. None if it was removed."""


def collect_garbage(directory: Path, *, keep: int, dry_run: bool) -> list[Collected]:
    """Remove what a campaign no longer needs, under the campaign's lock.

    Args:
        directory: runs/<campaign>.
        keep: Number of latest finished rounds whose weights stay regardless of the gate's decision; at least 1.
        dry_run: Return what would be removed, and remove nothing.

    Raises:
        ValueError: `keep` is below 1, or the campaign's state is damaged.
        CampaignBusy: Another process is working on the campaign.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}: the next round may need the weights of the last one")
    with locked(directory, command="ratchet gc"):
        state = read_state(directory)
        if state is None:
            return []
        removed = [
            item
            for record in state.rounds
            for item in _collect_weights(directory, state, record, keep=keep, dry_run=dry_run)
        ]
        weightless = {item.round for item in removed if item.what == "weights" and item.round is not None}
        removed += _collect_copies(directory, state, weightless, dry_run=dry_run)
        return [*removed, *_sweep(directory, state, dry_run=dry_run)]


def _collect_weights(
    directory: Path, state: State, record: RoundRecord, *, keep: int, dry_run: bool
) -> Iterator[Collected]:
    stage = round_directory(directory, record.round) / "dpo_train"
    for name in WEIGHTS:
        weights, renamed = stage / name, sorted(stage.glob(f".{name}.old-*"))
        unfinished = bool(renamed) and not weights.exists()
        if not unfinished and (_is_wanted(state, record, keep) or not weights.is_dir()):
            continue
        num_bytes = sum(_size(path) for path in (weights, *renamed))
        if not dry_run:
            _remove_weights(directory, record, weights, renamed)
        yield Collected(
            campaign=directory.name, round=record.round, what="weights", path=str(weights), num_bytes=num_bytes
        )
    yield from _collect_masters(directory, state, record, dry_run=dry_run)


def _collect_masters(directory: Path, state: State, record: RoundRecord, *, dry_run: bool) -> Iterator[Collected]:
    """Remove fp32 masters that no round trains on. Without them, a restored champion is trained on as published."""
    stage = round_directory(directory, record.round) / "dpo_train"
    masters, renamed = stage / MASTER, sorted(stage.glob(f".{MASTER}.old-*"))
    in_place = masters.exists() and record.round != state.champion.round
    unwanted = [*renamed, masters] if in_place else renamed
    if not unwanted:
        return
    num_bytes = sum(_size(path) for path in unwanted)
    if not dry_run:
        if in_place:
            _delete(renamed)
            renamed = [masters.with_name(f".{MASTER}.old-{os.getpid()}")]
            os.rename(masters, renamed[0])
            sync(stage)
        _delete(renamed)
    yield Collected(campaign=directory.name, round=record.round, what="masters", path=str(masters), num_bytes=num_bytes)


def _is_wanted(state: State, record: RoundRecord, keep: int) -> bool:
    latest = {other.round for other in state.rounds[-keep:]}
    return record.promoted or record.round == state.champion.round or record.round in latest


def _remove_weights(directory: Path, record: RoundRecord, weights: Path, renamed: list[Path]) -> None:
    """Rename, record and delete weights, in this order; a killed collection did not delete those in `renamed`."""
    num_bytes = sum(_size(path) for path in (weights, *renamed))
    in_place = weights.exists()
    if in_place:
        _delete(renamed)
        renamed = [weights.with_name(f".{weights.name}.old-{os.getpid()}")]
        os.rename(weights, renamed[0])
        sync(weights.parent)
    if in_place or collected_weights(directory, record.round) is None:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        note = CollectedWeights(what=weights.name, digest=record.policy_digest, num_bytes=num_bytes, at=at)
        write_json(round_directory(directory, record.round) / COLLECTED, note)
    _delete(renamed)


def _collect_copies(directory: Path, state: State, collected: set[int], *, dry_run: bool) -> list[Collected]:
    """Remove MLflow's copies of the weights that were collected now, or earlier while MLflow was unavailable."""
    notes = {record.round: collected_weights(directory, record.round) for record in state.rounds}
    pending = [record for record in state.rounds if _has_copy(notes[record.round], record.round in collected)]
    if not pending:
        return []
    from components.tracking import TrackingUnavailable, collect_copies  # loads mlflow, which takes seconds

    def item(round: int, num_bytes: int | None, postponed: str | None = None) -> Collected:
        return Collected(
            campaign=directory.name,
            round=round,
            what="copy in MLflow",
            path=None,
            num_bytes=num_bytes,
            postponed=postponed,
        )

    try:
        freed = collect_copies(directory, pending, dry_run=dry_run)
    except TrackingUnavailable as error:
        return [item(record.round, None, str(error)) for record in pending]
    for round, num_bytes in freed.items():
        note = notes[round]
        if note is not None and not dry_run:
            write_json(
                round_directory(directory, round) / COLLECTED, note.model_copy(update={"mlflow_bytes": num_bytes})
            )
    return [item(round, num_bytes) for round, num_bytes in freed.items() if num_bytes]


def _has_copy(note: CollectedWeights | None, collected_now: bool) -> bool:
    return collected_now if note is None else note.mlflow_bytes is None


def _sweep(directory: Path, state: State, *, dry_run: bool) -> Iterator[Collected]:
    """Remove leftovers of killed processes: under the lock no other process writes there.

    Checkpoints of an open round are still needed.
    """
    finished = {record.round for record in state.rounds}
    for round_dir in sorted(directory.glob("round-*")):
        round = int(round_dir.name.rpartition("-")[2])
        removable: list[tuple[Literal["checkpoints", "leftover"], Path]] = [
            ("leftover", path) for pattern in LEFTOVERS for path in sorted(round_dir.glob(pattern)) if path.is_dir()
        ]
        if round in finished and (round_dir / CHECKPOINTS).is_dir():
            removable.append(("checkpoints", round_dir / CHECKPOINTS))
        for what, path in removable:
            num_bytes = _size(path)
            if not dry_run:
                _delete([path])
            yield Collected(campaign=directory.name, round=round, what=what, path=str(path), num_bytes=num_bytes)
    yield from _sweep_files(directory, dry_run=dry_run)


def _sweep_files(directory: Path, *, dry_run: bool) -> Iterator[Collected]:
    for path in sorted(directory.rglob(HALF_WRITTEN)):
        if not path.is_file() or time.time() - path.stat().st_mtime < HALF_WRITTEN_SECONDS:
            continue
        num_bytes = path.stat().st_size
        if not dry_run:
            path.unlink()
        name = path.relative_to(directory).parts[0]
        round = int(name.rpartition("-")[2]) if name.startswith("round-") else None
        yield Collected(campaign=directory.name, round=round, what="leftover", path=str(path), num_bytes=num_bytes)


def _delete(directories: Iterable[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
