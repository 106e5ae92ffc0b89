"""What all commands share: the two consoles, the campaign's argument, and errors told in one line."""

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from components.records import DataRejected, JudgeUnavailable, RoundStopped, ServiceFailed, StageFailed

console = Console()
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

CampaignArgument = Annotated[str, typer.Argument(help="Name of a campaign, as in its config.")]


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Ends the command with exit code 2 for the user's input, 1 for what went wrong; one line, no traceback."""
    try:
        yield
    except ValueError as error:
        errors.print(f"ratchet: {error}")
        raise typer.Exit(2) from None
    except DataRejected as error:
        errors.print(f"ratchet: {error}; go on with other data or another config by --accept-changes")
        raise typer.Exit(1) from None
    except (JudgeUnavailable, StageFailed) as error:
        errors.print(f"ratchet: {error}; the same command goes on from there")
        raise typer.Exit(1) from None
    except RoundStopped as error:
        errors.print(f"ratchet: stopped: {error}")
        raise typer.Exit(1) from None
    except ServiceFailed as error:
        errors.print(f"ratchet: {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        errors.print("ratchet: interrupted; the same command goes on from there")
        raise typer.Exit(1) from None


def quiet_libraries() -> None:
    """Leaves the terminal to the progress display; logs go to Prefect, where the run's page shows them."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
