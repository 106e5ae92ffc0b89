"""The progress artifact of a round on the Prefect page: stage, step, speed, time left and memory.

A thread of its own renews it every few seconds, so that a slow or missing Prefect server never delays a stage.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from components.campaign.files import STAGES
from components.config import TrackingConfig
from components.report.round import escape_markdown
from components.runtime import progress
from components.runtime.watch import StageWatch
from tasks.record_round import artifact_key

RENEW_SECONDS = 3.0
log = logging.getLogger(__name__)


@contextlib.contextmanager
def shown_on_page(directory: Path, tracking: TrackingConfig) -> Iterator[None]:
    """Show the progress of the stages within the block as an artifact of the running flow.

    Args:
        directory: The round's directory.
        tracking: Without texts, what a stage says beside its numbers is left out: a judge's warning may quote.
    """
    watched = RoundWatch(directory, tracking)
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


class RoundWatch(StageWatch):
    """Progress of a running round; a `components.runtime.progress.Listener`."""

    def __init__(self, directory: Path, tracking: TrackingConfig) -> None:
        super().__init__()
        self.directory, self.tracking = directory, tracking
        self.finished: dict[str, str] = {}
        """By stage, the text of its line."""

    def advanced(self, done: int, total: int, text: str) -> None:
        """Note how far the stage is."""
        super().advanced(done, total, text if self.tracking.texts else "")

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Note that a stage is published."""
        self.finished[stage] = f"done earlier, {seconds:.1f} s" if already_done else f"{seconds:.1f} s"
        super().ended(round, stage, seconds, already_done=already_done)

    def percent(self) -> float:
        """Return the share of the round's stages that are done, in percent; the running one counts by its steps."""
        running = self.done / self.total if self.total else 0.0
        return min(100.0, 100.0 * (len(self.finished) + running) / len(STAGES))

    def description(self) -> str:
        """Return the round so far as Markdown, one line per stage."""
        lines = [f"- **{stage}** {text}" for stage, text in self.finished.items()]
        if self.stage:
            lines.append(f"- **{self.stage}** {escape_markdown(self.facts())}")
        name = escape_markdown(self.directory.parent.name)
        return "\n".join([f"{name}, {self.directory.name}\n", *lines])
