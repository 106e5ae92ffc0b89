"""Shared by all commands: the two consoles, the campaign's argument, and the one-line report of an error."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from components.campaign.lock import CampaignBusy
from components.records import (
    DataRejected,
    JudgeUnavailable,
    ModelRefused,
    RoundStopped,
    ServiceFailed,
    StageFailed,
)

console = Console()
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

CampaignArgument = Annotated[str, typer.Argument(help="Name of a campaign: the `campaign` of its YAML file.")]

USER_INPUT, FAILURE = 2, 1


class Report(NamedTuple):
    """How a command reports a kind of error."""

    exit_code: int
    line: str
    """The text after `ratchet: `; `{error}` stands for the error's message."""


REPORTS: dict[type[BaseException], Report] = {
    ValueError: Report(USER_INPUT, "{error}"),
    CampaignBusy: Report(USER_INPUT, "{error}; try again when it has finished"),
    DataRejected: Report(FAILURE, "{error}; change the data or the config and continue with --accept-changes"),
    JudgeUnavailable: Report(FAILURE, "{error}; run the same command again to continue"),
    ModelRefused: Report(FAILURE, "{error}"),
    StageFailed: Report(FAILURE, "{error}; run the same command again to continue"),
    RoundStopped: Report(FAILURE, "stopped: {error}"),
    ServiceFailed: Report(FAILURE, "{error}"),
    KeyboardInterrupt: Report(FAILURE, "interrupted; run the same command again to continue"),
}
"""By kind of error, its report. An outage of MLflow is a `ServiceFailed`: to name it, no command has to load mlflow."""


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Report an error of `REPORTS` in one line on stderr and end the command with its exit code.

    Any other error is a defect of ours and keeps its traceback.
    """
    try:
        yield
    except tuple(REPORTS) as error:
        report = next(report for kind, report in REPORTS.items() if isinstance(error, kind))
        errors.print(f"ratchet: {report.line.format(error=error)}")
        raise typer.Exit(report.exit_code) from None


def quiet_libraries() -> None:
    """Leave the terminal to the progress display; logs go to Prefect, whose page of the run shows them."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # peft imports it if it is installed, and it then warns of a faster kernel on the hub, whatever the model is.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
