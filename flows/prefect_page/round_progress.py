"""The progress artifact of a round on the Prefect page.

Stage, step, speed, time left and memory, renewed every few seconds.

A thread of its own does the renewing, so that a slow Prefect server, or none, never holds a stage up.
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
    """Shows what goes on within the block as a progress artifact of the running flow; `directory` is the round's."""
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
    """What is known of a running round; a `components.runtime.progress.Listener`."""

    directory: Path
    stage: str = ""
    done: int = 0
    total: int = 0
    text: str = ""
    since: float = 0.0
    finished: dict[str, str] = field(default_factory=dict)
    """By stage, what its line says."""

    def began(self, round: str, stage: str) -> None:
        """A stage begins."""
        self.stage, self.done, self.total, self.text, self.since = stage, 0, 0, "", time.monotonic()

    def advanced(self, done: int, total: int, text: str) -> None:
        """The stage got further."""
        self.done, self.total, self.text = done, total, text

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """A stage is published."""
        self.finished[stage] = f"done earlier, {seconds:.1f} s" if already_done else f"{seconds:.1f} s"
        self.stage, self.done, self.total = "", 0, 0

    def percent(self) -> float:
        """Share of the round's stages that are done, the running one by its steps, in percent."""
        running = self.done / self.total if self.total else 0.0
        return min(100.0, 100.0 * (len(self.finished) + running) / len(STAGES))

    def description(self) -> str:
        """The round so far, as Markdown: a line a stage."""
        lines = [f"- **{stage}** {text}" for stage, text in self.finished.items()]
        if self.stage:
            lines.append(f"- **{self.stage}** {self._running()}")
        return "\n".join([f"{self.directory.parent.name}, {self.directory.name}\n", *lines])

    def _running(self) -> str:
        seconds = time.monotonic() - self.since
        parts = [f"{seconds:.0f} s so far", f"memory {_memory_bytes() / 2**30:.1f} GiB"]
        if self.done and seconds > 0:
            left = (self.total - self.done) * seconds / self.done
            parts = [
                f"{self.done} of {self.total}",
                f"{self.done / seconds:.1f} a second",
                f"about {left:.0f} s left",
                parts[1],
            ]
        return ", ".join([*parts, *([self.text] if self.text else [])])


def _memory_bytes() -> int:
    # Children share pages with each other, so this may be more than the machine gives; a sum that is too high warns in
    # time.
    held = 0
    mine = psutil.Process()
    for process in (mine, *mine.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            held += process.memory_info().rss
    return held
