"""`ratchet study`: compare ways to train, side by side and over seeds."""

from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import runs_directory
from components.config import load_study, read_settings
from components.records import StageFailed
from flows.terminal.console import console, quiet_libraries, reporting_errors


def study(
    config: Annotated[Path, typer.Argument(help="YAML file of the study, such as conf/studies/methods.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of a key, instead of the file's; may be repeated."),
    ] = None,
) -> None:
    """Run the campaigns of a study, each arm with each seed, and compare what they reached.

    An arm is a change of one base configuration, or another method. All arms start from the same
    model and are measured on the same prompts by the same judge, and those that train have as many answers to learn
    from. Finished campaigns are not run again, so after any interruption
    the same command continues, and arms or seeds may be added to the file. An arm that fails is named, and the others
    go on.

    Example: [bold]ratchet study conf/studies/methods.yaml --set seeds='[1, 2]'[/bold]
    """
    with reporting_errors():
        settings = load_study(config, read_settings(set_ or ()))
        quiet_libraries()
        from components.runtime import progress
        from components.runtime.launch import load_stages
        from flows.prefect_page.earlier_starts import own_process
        from flows.servers.addresses import running
        from flows.servers.temporary import prefect_server
        from flows.terminal.rounds import StageProgress
        from flows.terminal.study import print_study

        services = running(runs_directory())
        with prefect_server(known=services.api if services else None, meanwhile=load_stages):
            from prefect import tags

            from components.study.files import Results
            from flows.study import study as study_flow

            with StageProgress(console) as bar, progress.reporting_to(bar), tags(*own_process()):
                results = Results.model_validate(study_flow(settings))
        print_study(console, results)
        if results.failures:
            first = results.failures[0]
            raise StageFailed(
                f"{len(results.failures)} of the study's campaigns failed; the first: {first.arm}, seed {first.seed}: "
                f"{first.reason}",
                may_pass=False,
            )
