"""Run a stage within a task, so that the Prefect page shows of its error only what it may."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from components.config import TrackingConfig
from components.records import JudgeUnavailable, Manifest, Record, StageFailed
from components.runtime import launch

_kept_in: ContextVar[Path | None] = ContextVar("kept_in", default=None)
log = logging.getLogger("components.stages")


@contextmanager
def errors_kept_in(log_file: Path, tracking: TrackingConfig) -> Iterator[None]:
    """Without texts, keep the messages of stages' errors within the block in the campaign's log file.

    Args:
        log_file: The campaign's log file, which gets the components' log records.
        tracking: What the Prefect page may show.
    """
    token = _kept_in.set(None if tracking.texts else log_file)
    try:
        yield
    finally:
        _kept_in.reset(token)


def run_stage(
    name: str,
    request: Record,
    directory: Path,
    *,
    where: launch.Placement = launch.HERE,
    anew: bool = False,
) -> Manifest:
    """Do what `components.runtime.launch.run_stage` does.

    Prefect shows the message of an error, and messages of judges and of unforeseen errors may quote a prompt or a
    response. If texts stay in the campaign's directory, they are replaced by the name of the log file that has them.
    """
    log_file = _kept_in.get()
    try:
        return launch.run_stage(name, request, directory, where=where, anew=anew)
    except (JudgeUnavailable, StageFailed) as error:
        if log_file is None:
            raise
        log.error("%s: %s", type(error).__name__, error)
        place = f"{name} failed: the message is in {log_file}, since tracking.texts is false"
        if isinstance(error, StageFailed):
            withheld: Exception = StageFailed(place, may_pass=error.may_pass)
        else:
            withheld = JudgeUnavailable(place)
    raise withheld  # out here, since Prefect would show the error that it follows from
