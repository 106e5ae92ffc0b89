"""The progress artifact of a round on the Prefect page: stage, step, speed, time left and memory.

A thread of its own renews it every few seconds, so that a slow or missing Prefect server never delays a stage.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from components.campaign.files import STAGES
from components.runtime import progress
from tasks.record_round import artifact_key

RENEW_SECONDS = 3.0
log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown_on_page(directory: Path) -> Iterator[None]:
    """Show the progress of the stages within the block as an artifact of the running flow.

    Args:
        directory: The round's directory.
    """
    watched = RoundWatch(directory)
    key = f"{artifact_key(directory.parent.name, directory.name)}-progress"
    artifact = create_progress_artifact(progress=0.0, key=key, description=watched.description())
    assert isinstance(artifact, UUID)
    ended = threading.Event()
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=[_renew, artifact, watched, ended], daemon=True
    )
    with progress.reporting_to(watched):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=RENEW_SECONDS)


def _renew(artifact: UUID, watched: "RoundWatch", ended: threading.Event) -> None:
    shown, last = "", False
    while not last:
        last = ended.wait(RENEW_SECONDS)
        description = watched.description()
        if description == shown:
            continue
        try:
            update_progress_artifact(artifact, progress=watched.percent(), description=description)
            shown = description
        except Exception as error:  # whatever Prefect's client raises while its server is away
            log.debug("the progress artifact was not renewed: %s", error)


@dataclass
class RoundWatch:
    """Progress of a running round; a `components.runtime.progress.Listener`."""

    directory: Path
    stage: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    since: float = 0.0
    finished: dict[str, str] = field(default_factory=dict)
    """By stage, the text of its line."""

    def began(self, round: str, stage: str) -> None:
        """Note that a stage begins."""
        self.stage, self.done, self.total, self.text, self.since = stage, 0, 0, "", time.monotonic()

    def advanced(self, done: int, total: int, text: str) -> None:
        """Note how far the stage is."""
        self.done, self.total, self.text = done, total, text

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Note that a stage is published."""
        self.finished[stage] = f"done earlier, {seconds:.1f} s" if already_done else f"{seconds:.1f} s"
        self.stage, self.done, self.total = "", 0, 0

    def percent(self) -> float:
        """Return the share of the round's stages that are done, in percent; the running one counts by its steps."""
        running = self.done / self.total if self.total else 0.0
        return min(100.0, 100.0 * (len(self.finished) + running) / len(STAGES))

    def description(self) -> str:
        """Return the round so far as Markdown, one line per stage."""
        lines = [f"- **{stage}** {text}" for stage, text in self.finished.items()]
        if self.stage:
            lines.append(f"- **{self.stage}** {self._running()}")
        return "\n".join([f"{self.directory.parent.name}, {self.directory.name}\n", *lines])

    def _running(self) -> str:
        seconds = time.monotonic() - self.since
        parts = [f"{seconds:.0f} s so far", f"memory {_memory_bytes() / 2**30:.1f} GiB"]
        if self.done and seconds > 0:
            seconds_left = (self.total - self.done) * seconds / self.done
            parts = [
                f"{self.done} of {self.total}",
                f"{self.done / seconds:.1f} a second",
                f"about {seconds_left:.0f} s left",
                parts[1],
            ]
        return ", ".join([*parts, *([self.text] if self.text else [])])


def _memory_bytes() -> int:
    # Child processes share pages, so the sum may exceed what the machine really uses; too high a number warns early.
    num_bytes = 0
    this_process = psutil.Process()
    for process in (this_process, *this_process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            num_bytes += process.memory_info().rss
    return num_bytes
