"""`ratchet run`: rounds of a campaign from the terminal."""

import importlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from components.campaign import campaign_directory, refuse_changes, runs_directory
from components.config import load_config
from components.records import RoundStopped
from flows.commands.terminal import console, errors, quiet_libraries, told_in_one_line


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
    with told_in_one_line():
        settings = load_config(config, {name: value for name, value in overrides.items() if value is not None})
        directory = campaign_directory(settings.campaign)
        if not accept_changes:
            refuse_changes(directory, settings)
        quiet_libraries()
        from components.preflight import check_inputs
        from flows.server import prefect_server
        from flows.services import running

        check_inputs(settings)
        services = running(runs_directory())
        if services is not None:
            os.environ.setdefault("MLFLOW_TRACKING_URI", services.mlflow)  # so that what runs here links to its pages
        with prefect_server(known=services.api if services else None, meanwhile=_load):
            _run_flow(settings, accept_changes=accept_changes)


def _load() -> None:
    """Imports what the rounds need: seconds of libraries."""
    from components.launch import load_stages

    load_stages()
    importlib.import_module("components.tracking")


def _run_flow(settings: Any, *, accept_changes: bool) -> None:
    from components import progress
    from flows.display import StageProgress, print_places, print_rounds
    from flows.dpo_round import STOPPED
    from flows.iterative_dpo import SKIPPED, iterative_dpo

    with StageProgress(console, campaign_directory(settings.campaign)) as shown, progress.shown_by(shown):
        state: Any = iterative_dpo(settings, accept_changes=accept_changes, return_state=True)
    if state.name == SKIPPED:
        errors.print(f"ratchet: skipped: {state.message}")
        return
    if state.name == STOPPED:
        raise RoundStopped(state.message)
    result = state.result()
    print_rounds(console, result)
    print_places(console, campaign_directory(settings.campaign))
