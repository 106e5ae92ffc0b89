"""`ratchet run`: run rounds of a campaign from the terminal."""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from components.campaign.config import refuse_changes, with_former_defaults
from components.campaign.state import campaign_directory, has_reached, read_state, refuse_if_doubted, runs_directory
from components.config import CampaignConfig, load_config, read_settings
from components.records import RoundStopped, RoundWaits
from flows.prefect_page.deployed import STORE_VARIABLE
from flows.terminal.console import console, errors, quiet_libraries, reporting_errors

CHECKS = "checks"
"""What comes before the first stage, as the progress names it."""


def run(
    config: Annotated[Path, typer.Argument(help="YAML file of the campaign, such as conf/demo.yaml.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds to add, instead of the file's num_rounds.")] = None,
    until: Annotated[
        int | None,
        typer.Option(
            min=1, help="Last round that the campaign shall have, instead of --rounds; does nothing if it is there."
        ),
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="Name of the campaign, instead of the file's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed, instead of the file's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of a key, instead of the file's; may be repeated."),
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(help="Continue with a config or inputs that differ from those the campaign began with."),
    ] = False,
    accept_audit: Annotated[
        bool,
        typer.Option("--accept-audit", "--accept", help="Continue although an audit contradicts the promotions."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what the next round would do, take and cost, by a few real steps. Writes nothing, asks no judge "
            "that may cost.",
        ),
    ] = False,
) -> None:
    """Run rounds of a campaign, or finish the rounds that an interrupted run left open.

    A round samples responses, judges them, validates the pairs, trains, evaluates the trained model on held-out prompts
    and promotes it if it is better. Finished stages are not run again, so after any interruption the same command
    continues; with `--until` it does nothing if that round is there. `ratchet reference` prints the keys of the file.

    Example: [bold]ratchet run conf/demo.yaml --rounds 1 --set training.learning_rate=2e-5[/bold]
    """
    overrides = {"num_rounds": rounds, "campaign": campaign, "seed": seed}
    with reporting_errors():
        if rounds is not None and until is not None:
            raise ValueError("--rounds and --until both say how far to go: pass one of them")
        chosen = {name: value for name, value in overrides.items() if value is not None}
        settings = load_config(config, read_settings(set_ or ()) | chosen)
        directory = campaign_directory(settings.campaign)
        settings = with_former_defaults(directory, settings)
        if not accept_changes:
            refuse_changes(directory, settings)
        quiet_libraries()
        from components.runtime import progress
        from components.start.pins import check_start
        from flows.servers.addresses import running
        from flows.servers.temporary import prefect_server

        if dry_run:
            for doubt in settings.training.doubts:
                errors.print(f"ratchet: note: {doubt}")
            _show_dry_run(settings)
            return
        if not accept_audit:
            refuse_if_doubted(read_state(directory))
        if not has_reached(read_state(directory), until):
            with _display(settings):
                progress.began(settings.campaign, CHECKS)
                checked = check_start(directory, settings, accept_changes=accept_changes)
            for line in checked.accepted:
                errors.print(f"ratchet: note: accepted, and pinned anew: {line}")
        for doubt in settings.training.doubts:
            errors.print(f"ratchet: note: {doubt}")
        services = running(runs_directory())
        if services is not None and not os.environ.get(STORE_VARIABLE):
            # The rounds then link to the pages of that server.
            os.environ |= services.mlflow_environment()
        with prefect_server(known=services.api if services else None, meanwhile=_load):
            _run_flow(settings, accept_changes=accept_changes, until=until, accept_audit=accept_audit)


def _show_dry_run(settings: CampaignConfig) -> None:
    from components.runtime import progress
    from flows.dry_run import dry_run
    from flows.terminal.dry_run import print_dry_run
    from flows.terminal.rounds import StageProgress

    with StageProgress(console) as bar, progress.reporting_to(bar):
        progress.began(settings.campaign, CHECKS)
        tried = dry_run(settings)
    print_dry_run(console, tried, num_rounds=settings.num_rounds)


@contextlib.contextmanager
def _display(settings: CampaignConfig) -> Iterator[None]:
    """Show the progress of the stages within the block."""
    from components.runtime import progress
    from flows.terminal.rounds import StageProgress

    with StageProgress(console, campaign_directory(settings.campaign)) as bar, progress.reporting_to(bar):
        yield


def _load() -> None:
    """Import the libraries of the rounds, which takes seconds."""
    from components.runtime.launch import load_stages

    load_stages()
    importlib.import_module("components.tracking")


def _run_flow(settings: Any, *, accept_changes: bool, until: int | None, accept_audit: bool) -> None:
    from prefect import tags

    from flows.dpo_round import STOPPED
    from flows.iterative_dpo import SKIPPED, iterative_dpo
    from flows.prefect_page.earlier_starts import own_process
    from flows.prefect_page.waiting import WAITING
    from flows.terminal.rounds import print_places, print_rounds

    with _display(settings), tags(*own_process()):
        state: Any = iterative_dpo(
            settings, accept_changes=accept_changes, until=until, accept_audit=accept_audit, return_state=True
        )
    if state.name == SKIPPED:
        errors.print(f"ratchet: skipped: {state.message}")
        return
    if state.name == STOPPED:
        raise RoundStopped(state.message)
    if state.name == WAITING:
        raise RoundWaits(state.message)
    result = state.result()
    print_rounds(console, result)
    print_places(console, campaign_directory(settings.campaign))
