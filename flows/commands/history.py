"""Commands on a campaign's past: compare, lineage, rollback, gc."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from components.campaign.lock import CampaignBusy
from components.campaign.state import campaign_directory, known_campaigns, known_state
from flows.terminal.console import CampaignArgument, console, errors, quiet_libraries, reporting_errors

if TYPE_CHECKING:
    from components.history.cleanup import Collected
    from components.history.names import RoundName


RoundArgument = Annotated[str, typer.Argument(metavar="ROUND", help="A round as campaign/number, such as demo/1.")]


def compare(
    left: RoundArgument,
    right: RoundArgument,
    answers: Annotated[
        int,
        typer.Option(
            min=0, help="Held-out prompts on which both rounds' models are sampled anew; needs their weights."
        ),
    ] = 0,
) -> None:
    """Show two rounds side by side: decisions, measures, differing config keys, digests and sampled responses.

    The rounds may belong to different campaigns. Each was measured on held-out prompts of its own; what the win rates
    against the start, or against a common champion, say about the two is told with an interval.

    Example: [bold]ratchet compare demo/1 demo/2 --answers 3[/bold]
    """
    with reporting_errors():
        from components.history.compare import compare_rounds
        from components.history.names import parse_round
        from flows.terminal.history import print_comparison

        names = parse_round(left), parse_round(right)
        print_comparison(console, compare_rounds(*names))
        if answers:
            _show_fresh_answers(names, answers)


def _show_fresh_answers(names: tuple["RoundName", "RoundName"], number: int) -> None:
    quiet_libraries()
    from components.history.fresh_answers import fresh_answers
    from components.runtime import progress
    from flows.terminal.history import print_answers
    from flows.terminal.rounds import StageProgress

    with StageProgress(console) as bar, progress.reporting_to(bar):
        progress.began("compare", "answers")
        answers = fresh_answers(*names, number=number)
    print_answers(console, (str(names[0]), str(names[1])), answers)


def lineage(
    version: Annotated[
        str, typer.Argument(help="A version of a registered model: demo/3, demo@champion, or models:/demo/3.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with complete digests.")] = False,
) -> None:
    """Show what a registered model was made from, and check that those files are unchanged.

    The tree goes through rounds, pairs and judges down to the prompts and the start model.

    Example: [bold]ratchet lineage demo@champion[/bold]
    """
    with reporting_errors():
        from components.history.lineage import read_lineage
        from components.history.names import parse_version
        from flows.terminal.history import print_lineage

        tree = read_lineage(parse_version(version))
        if as_json:
            typer.echo(json.dumps(tree.plain(), indent=1))
        else:
            print_lineage(console, tree)


def rollback(
    campaign: CampaignArgument,
    round: Annotated[int, typer.Argument(min=0, help="Number of a promoted round, or 0 for the start model.")],
) -> None:
    """Make an earlier promoted round, or the start model, the champion again.

    The next round starts from that model. The later rounds stay on disk and in MLflow, and so does a record of the
    rollback.

    Example: [bold]ratchet rollback demo 1[/bold]
    """
    with reporting_errors():
        known_state(campaign)
        from components.history.rollback import roll_back
        from components.report.campaign import write_report
        from components.report.wording import rollback_line

        directory = campaign_directory(campaign)
        state = roll_back(directory, round)
        console.print(f"campaign {campaign}: {rollback_line(state.rollbacks[-1])}", highlight=False, soft_wrap=True)
        if state.target is not None:
            again = f"what round {state.last_round + 1} has published from the former champion is made again"
            console.print(
                f"a start is open that goes to round {state.target}: {again}", highlight=False, soft_wrap=True
            )
        write_report(directory)
        _announce_champion(campaign)


def _announce_champion(campaign: str) -> None:
    from components.tracking import TrackingUnavailable, announce_champion

    try:
        announce_champion(campaign_directory(campaign))
    except TrackingUnavailable as error:
        errors.print(f"ratchet: {error}; the alias `champion` moves when the next round is recorded")


def gc(
    campaign: Annotated[str | None, typer.Argument(help="Name of a campaign; all campaigns if left out.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Latest rounds whose weights stay, promoted or not.")] = 2,
    dry_run: Annotated[bool, typer.Option(help="List what would be removed, and remove nothing.")] = False,
) -> None:
    """Free disk space: remove the weights of rounds that were not promoted, and what killed runs left.

    Their copies in MLflow are removed too. The start model, every model that was ever promoted and the latest rounds
    keep their weights. Measures, pairs and samples of all rounds stay.

    Example: [bold]ratchet gc demo --keep 3 --dry-run[/bold]
    """
    with reporting_errors():
        if campaign is not None:
            known_state(campaign)
        from components.history.cleanup import collect_garbage
        from flows.terminal.history import print_collected

        collected: list[Collected] = []
        problems = []
        for name in known_campaigns() if campaign is None else [campaign]:
            try:
                collected += collect_garbage(campaign_directory(name), keep=keep, dry_run=dry_run)
            except CampaignBusy as busy:
                errors.print(f"ratchet: skipped: {busy}")
            except PermissionError as error:
                if campaign is not None:
                    raise
                errors.print(f"ratchet: skipped: {error}")
            except ValueError as error:
                problems.append(str(error))
        print_collected(console, collected, dry_run=dry_run)
        for reason in dict.fromkeys(item.postponed for item in collected if item.postponed is not None):
            errors.print(f"ratchet: {reason}; the next gc removes the copies in MLflow")
        if problems:
            raise ValueError("; ".join(problems))
