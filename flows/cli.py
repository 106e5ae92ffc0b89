"""The command `ratchet`. Exit code 0: done; 2: the user's input is wrong; 1: anything else. Errors are one line, never a traceback."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from components.campaign import campaign_directory, known_state, refuse_changes, runs_directory
from components.config import load_config
from components.records import DataRejected, JudgeUnavailable, StageFailed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Turn a language model towards what people prefer, round after round, and never backwards. "
    "Campaigns lie under [bold]runs/[/bold]; the environment's RATCHET_RUNS names another place.",
)
console = Console()
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

CampaignArgument = Annotated[str, typer.Argument(help="Name of a campaign, as in its config.")]


@contextlib.contextmanager
def _told_in_one_line() -> Iterator[None]:
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
    except KeyboardInterrupt:
        errors.print("ratchet: interrupted; the same command goes on from there")
        raise typer.Exit(1) from None


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file, such as conf/demo.yaml.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds to add, in place of the file's num_rounds.")] = None,
    campaign: Annotated[str | None, typer.Option(help="Campaign name, in place of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, in place of the file's.")] = None,
    accept_changes: Annotated[bool, typer.Option(help="Go on with a config that differs from the one the campaign began with.")] = False,
) -> None:
    """Run rounds of a campaign, or finish the ones that an interrupted run left open.

    A stage that is already published is not run again. Example: [bold]ratchet run conf/demo.yaml --rounds 1[/bold]
    """
    overrides = {"num_rounds": rounds, "campaign": campaign, "seed": seed}
    with _told_in_one_line():
        settings = load_config(config, {name: value for name, value in overrides.items() if value is not None})
        directory = campaign_directory(settings.campaign)
        if not accept_changes:
            refuse_changes(directory, settings)
        _quiet_libraries()
        from components.preflight import check_inputs
        from flows.server import prefect_server

        check_inputs(settings)
        with prefect_server():
            _run_flow(settings, accept_changes=accept_changes)


def _run_flow(settings: Any, *, accept_changes: bool) -> None:
    from components import progress
    from flows.display import StageProgress, print_places, print_rounds
    from flows.iterative_dpo import SKIPPED, iterative_dpo

    with StageProgress(console) as shown, progress.shown_by(shown):
        state: Any = iterative_dpo(settings, accept_changes=accept_changes, return_state=True)
    if state.name == SKIPPED:
        errors.print(f"ratchet: skipped: {state.message}")
        return
    result = state.result()
    print_rounds(console, result)
    print_places(console, campaign_directory(settings.campaign))


def _quiet_libraries() -> None:
    """Leaves the terminal to the progress display; logs go to Prefect, where the run's page shows them."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "components")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
def status(campaign: CampaignArgument) -> None:
    """Show a campaign's rounds, its champion, and what is still open."""
    from flows.display import print_rounds

    with _told_in_one_line():
        state = known_state(campaign)
    print_rounds(console, state.model_dump(mode="json"))
    if state.target is not None:
        console.print(f"open: a start that goes to round {state.target}; the command that began it goes on", highlight=False)


@app.command()
def report(campaign: CampaignArgument) -> None:
    """Write a campaign's report.html again and print where it lies."""
    with _told_in_one_line():
        known_state(campaign)
        from components.report.campaign import write_report

        console.print(str(write_report(campaign_directory(campaign))), highlight=False, soft_wrap=True)


@app.command()
def reference() -> None:
    """Print every key of the configuration with its type, default and meaning, as Markdown."""
    from flows.reference import config_reference

    typer.echo(config_reference())


@app.command()
def doctor() -> None:
    """Look at this machine and installation: versions, processor, accelerators, stores; exit code 1 if something would stop a run."""
    from flows.doctor import findings

    failed = False
    for name, fine, detail in findings(runs_directory()):
        failed |= not fine
        console.print(f"{'ok  ' if fine else 'BAD '} {name:<14} {detail}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, envvar="RATCHET_PREFECT_PORT", help="Port of the Prefect page.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, envvar="RATCHET_MLFLOW_PORT", help="Port of the MLflow page.")] = 5000,
) -> None:
    """Start the Prefect and MLflow pages over what ran, print their addresses, and stay until Ctrl-C."""
    from flows.display import rounds_pages
    from flows.server import pages

    console.print("starting; the MLflow page takes up to a minute the first time", highlight=False)
    with _told_in_one_line(), pages(runs_directory(), prefect_port=prefect_port, mlflow_port=mlflow_port) as until_one_ends:
        console.print(f"Prefect  http://127.0.0.1:{prefect_port}", highlight=False)
        console.print(f"MLflow   http://127.0.0.1:{mlflow_port}", highlight=False)
        for campaign, address in rounds_pages(runs_directory(), f"http://127.0.0.1:{mlflow_port}"):
            console.print(f"         the rounds of {campaign}: {address}", highlight=False, soft_wrap=True)
        console.print("Ctrl-C ends both", highlight=False)
        until_one_ends()


def main() -> None:
    """Entry point of the console script."""
    logging.captureWarnings(True)
    app()


if __name__ == "__main__":
    main()
