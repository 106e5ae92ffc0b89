"""Shared by all commands: the two consoles, the campaign's argument, and the one-line report of an error."""

import contextlib
import errno
import logging
import os
import traceback
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from components.campaign.lock import Busy
from components.records import (
    ChampionDoubted,
    Converged,
    DataRejected,
    JudgeUnavailable,
    ModelRefused,
    NothingToLearn,
    RoundStopped,
    RoundWaits,
    ServiceFailed,
    StageFailed,
)
from components.runtime.printable import one_line, printable


class PlainConsole(Console):
    """A console that shows text as it is: no text of a model, a judge or a server is markup or steers the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"markup": False, "emoji": False} | options))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, without the control characters of texts; what rich itself sends stays."""
        for segment in super().render(renderable, options):
            # Removed, because rich counts them as nothing when it measures a line.
            yield segment if segment.control else segment._replace(text=printable(segment.text, instead=""))


console = PlainConsole()
errors = PlainConsole(stderr=True, highlight=False, soft_wrap=True)

CampaignArgument = Annotated[str, typer.Argument(help="Name of a campaign: the `campaign` of its YAML file.")]

DONE, USER_INPUT, FAILURE = 0, 2, 1


class Report(NamedTuple):
    """How a command reports a kind of error."""

    exit_code: int
    line: str
    """The text after `ratchet: `; `{error}` stands for the error's message."""


REPORTS: dict[type[BaseException], Report] = {
    ValueError: Report(USER_INPUT, "{error}"),
    Busy: Report(USER_INPUT, "{error}; try again when it has finished"),
    DataRejected: Report(FAILURE, "{error}; change the data or the config and continue with --accept-changes"),
    JudgeUnavailable: Report(FAILURE, "{error}; run the same command again to continue"),
    ModelRefused: Report(FAILURE, "{error}"),
    StageFailed: Report(FAILURE, "{error}; run the same command again to continue"),
    ChampionDoubted: Report(FAILURE, "{error}"),
    RoundStopped: Report(FAILURE, "stopped: {error}"),
    NothingToLearn: Report(DONE, "skipped: {error}"),
    Converged: Report(DONE, "{error}"),
    RoundWaits: Report(FAILURE, "{error}; run the same command again when they have"),
    ServiceFailed: Report(FAILURE, "{error}"),
    KeyboardInterrupt: Report(FAILURE, "interrupted; run the same command again to continue"),
}
"""By kind of error, its report. An outage of MLflow is a `ServiceFailed`: to name it, no command has to load mlflow."""

ACCESS = "ask its owner for access, or work in a directory of your own (RATCHET_RUNS)"
SYSTEM_REMEDIES = {
    errno.ENOSPC: "free some space, and run the same command again to continue",
    errno.EDQUOT: "free some space, and run the same command again to continue",
    errno.EROFS: "mount it writable, or set RATCHET_RUNS to another directory",
    errno.EACCES: ACCESS,
    errno.EPERM: ACCESS,
    errno.EIO: "check the disk, and run the same command again to continue",
    errno.ESTALE: "mount the file system again, and run the same command again to continue",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (sysctl fs.file-max)",
}
"""Failures of the machine, by the number that the system gives them, and what to do. Others are defects of ours."""
PREFECT_CLIENT = ("prefect.client.", "httpx.", "httpcore.")
"""Modules that raise an error when the Prefect server cannot be reached, or fails."""


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Report an error of `REPORTS`, of the machine or of the Prefect server in one line, and end with its exit code.

    Any other error is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        report = _report(error)
        if report is None:
            raise
        errors.print(one_line(f"ratchet: {report.line.format(error=error)}"))
        raise typer.Exit(report.exit_code) from None


def _report(error: BaseException) -> Report | None:
    """Return how an error is reported; None for a defect of ours."""
    for kind, report in REPORTS.items():
        if isinstance(error, kind):
            return report
    if isinstance(error, OSError) and error.errno in SYSTEM_REMEDIES:
        return Report(FAILURE, f"{{error}}: {SYSTEM_REMEDIES[error.errno]}")
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    # A lower status is the server's answer to a request of ours that is wrong.
    status = getattr(getattr(error, "response", None), "status_code", 500)
    if modules and modules[-1].startswith(PREFECT_CLIENT) and status >= 500:
        remedy = "start the server, or correct PREFECT_API_URL, and run the same command again to continue"
        return Report(FAILURE, f"the Prefect server failed: {{error}}: {remedy}")
    return None


def quiet_libraries() -> None:
    """Leave the terminal to the progress display; logs go to Prefect, whose page of the run shows them."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # peft imports it if it is installed, and it then warns of a faster kernel on the hub, whatever the model is.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
