"""`ratchet sweep`: search for the values of a few keys, and confirm the winner."""

from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import runs_directory
from components.config import load_sweep, read_settings
from components.records import StageFailed
from flows.terminal.console import console, quiet_libraries, reporting_errors


def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file of the sweep, such as conf/sweeps/beta-and-rate.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of a key, instead of the file's; may be repeated."),
    ] = None,
) -> None:
    """Search for better values of a few keys of a campaign, and confirm the winner on prompts that no trial saw.

    The first trial is the base configuration; the others are chosen by what was reached before. Trials below the median
    after a round end early. The winner and the base configuration are then trained again, with other seeds, and
    compared on the other half of the held-out prompts; `winner.yaml` is a file that `ratchet run` takes. After any
    interruption the same command continues.

    Example: [bold]ratchet sweep conf/sweeps/beta-and-rate.yaml --set trials=10[/bold]
    """
    with reporting_errors():
        settings = load_sweep(config, read_settings(set_ or ()))
        quiet_libraries()
        from components.runtime import progress
        from components.runtime.launch import load_stages
        from flows.prefect_page.earlier_starts import own_process
        from flows.servers.addresses import running
        from flows.servers.temporary import prefect_server
        from flows.terminal.rounds import StageProgress
        from flows.terminal.sweep import print_sweep

        services = running(runs_directory())
        with prefect_server(known=services.api if services else None, meanwhile=load_stages):
            from prefect import tags

            from components.sweep.files import SweepResults
            from flows.sweep import sweep as sweep_flow

            with StageProgress(console) as bar, progress.reporting_to(bar), tags(*own_process()):
                results = SweepResults.model_validate(sweep_flow(settings))
        print_sweep(console, results)
        if results.confirmation is not None and results.confirmation.failures:
            first = results.confirmation.failures[0]
            raise StageFailed(
                f"the confirmation's {first.arm}, seed {first.seed}, failed: {first.reason}", may_pass=False
            )
