"""Commands that only look: status, report, reference, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import campaign_directory, explain_doubt, known_state, runs_directory
from components.campaign.stopping import converged_round
from components.campaign.waiting import read_waiting
from components.config import load_config
from components.labelling.task import has_votes
from flows.terminal.console import CampaignArgument, console, reporting_errors


def status(
    campaign: CampaignArgument,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show every round, not only the latest ones and the champion's.")
    ] = False,
) -> None:
    """Show a campaign's rounds, its champion, and what is still open.

    One table holds the win rates and decisions, the other the measures of each round's model and the seconds per stage.

    Example: [bold]ratchet status demo[/bold]
    """
    from components.campaign.files import not_recorded, start_of_round
    from components.report.wording import start_training
    from flows.terminal.rounds import SHOWN_ROUNDS, print_rounds

    with reporting_errors():
        state = known_state(campaign)
        print_rounds(console, state.model_dump(mode="json"), last=None if show_all else SHOWN_ROUNDS)
        for line in start_training(start_of_round(campaign_directory(campaign), None)[0]):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if state.target is not None:
            console.print(
                f"open: a start that goes to round {state.target}; the command that began it goes on", highlight=False
            )
        if held := explain_doubt(state):
            console.print(held, highlight=False, markup=False, soft_wrap=True)
        waiting = read_waiting(campaign_directory(campaign))
        if waiting is not None:
            has_all = has_votes(campaign_directory(campaign), waiting.round)
            told = f"people have voted: round {waiting.round} can go on" if has_all else waiting.message
            console.print(told, highlight=False, markup=False, soft_wrap=True)
        converged = converged_round(campaign_directory(campaign), state.last_round)
        if converged is not None:
            console.print(converged, highlight=False, markup=False, soft_wrap=True)
        problem = not_recorded(campaign_directory(campaign), state)
        if problem is not None:
            console.print(problem, highlight=False, markup=False, soft_wrap=True)


def report(campaign: CampaignArgument) -> None:
    """Write a campaign's report.html again and print its path.

    Every finished round writes it too: a single file with plots, samples and decisions that opens without a network.
    """
    with reporting_errors():
        known_state(campaign)
        from components.report.campaign import write_report

        console.print(str(write_report(campaign_directory(campaign))), highlight=False, soft_wrap=True)


def reference() -> None:
    """Print every key of a campaign's YAML file with its type, default and meaning, as Markdown."""
    from flows.reference import config_reference

    typer.echo(config_reference())


def doctor(
    config: Annotated[Path | None, typer.Argument(help="A campaign's YAML file, whose model is tried.")] = None,
) -> None:
    """Check this machine and installation: versions, processor, accelerators, disk, stores.

    With CONFIG, also say how its model will be sampled and scored, and why. A line that begins with BAD names something
    that would stop a run, and its remedy; the exit code is then 1.
    """
    from flows.doctor import findings, model_findings

    with reporting_errors():
        found = findings(runs_directory())
        if config is not None:
            found += model_findings(load_config(config))
    failed = False
    for name, fine, detail in found:
        failed |= not fine
        console.print(f"{'ok  ' if fine else 'BAD '} {name:<14} {detail}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
