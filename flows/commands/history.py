"""Commands on a campaign's past: compare, lineage, rollback, gc."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from components.campaign.lock import CampaignBusy
from components.campaign.state import campaign_directory, known_campaigns, known_state
from flows.terminal.console import CampaignArgument, console, errors, reporting_errors

if TYPE_CHECKING:
    from components.history.cleanup import Collected


RoundArgument = Annotated[str, typer.Argument(metavar="ROUND", help="campaign/round, such as demo/1.")]


def compare(left: RoundArgument, right: RoundArgument) -> None:
    """Show two rounds side by side, of one campaign or of two: decisions, numbers, config, digests, answers."""
    with reporting_errors():
        from components.history.compare import compare_rounds
        from components.history.names import parse_round
        from flows.terminal.history import print_comparison

        print_comparison(console, compare_rounds(parse_round(left), parse_round(right)))


def lineage(
    version: Annotated[
        str, typer.Argument(help="A registered model's version: demo/3, demo@champion, or models:/demo/3.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with whole digests.")] = False,
) -> None:
    """Show what a model version was made from, down to prompts and start model, and whether the files still are that."""
    with reporting_errors():
        from components.history.lineage import read_lineage
        from components.history.names import parse_version
        from flows.terminal.history import print_lineage

        found = read_lineage(parse_version(version))
        if as_json:
            typer.echo(json.dumps(found.plain(), indent=1, ensure_ascii=False))
        else:
            print_lineage(console, found)


def rollback(
    campaign: CampaignArgument,
    round: Annotated[int, typer.Argument(min=0, help="A round that was promoted, or 0 for the start model.")],
) -> None:
    """Make an earlier promoted round, or the start model (0), the champion again; the next round starts from it."""
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
        _tell_mlflow(campaign)


def _tell_mlflow(campaign: str) -> None:
    from components.tracking import TrackingUnavailable, announce_champion

    try:
        announce_champion(campaign_directory(campaign))
    except TrackingUnavailable as error:
        errors.print(f"ratchet: {error}; the alias champion follows with the next recorded round")


def gc(
    campaign: Annotated[str | None, typer.Argument(help="Name of a campaign; without it, all campaigns.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="Latest rounds whose weights stay, promoted or not.")] = 2,
    dry_run: Annotated[bool, typer.Option(help="Show what would go, and remove nothing.")] = False,
) -> None:
    """Free disk: remove weights of rounds that were never promoted, their copies in MLflow, and what killed runs left.

    The champion, every model that was ever promoted, the start model and the latest rounds keep their weights; numbers,
    pairs and samples always stay.
    """
    with reporting_errors():
        if campaign is not None:
            known_state(campaign)
        from components.history.cleanup import collect_garbage
        from flows.terminal.history import print_collected

        found: list[Collected] = []
        refused = []
        for name in known_campaigns() if campaign is None else [campaign]:
            try:
                found += collect_garbage(campaign_directory(name), keep=keep, dry_run=dry_run)
            except CampaignBusy as busy:
                errors.print(f"ratchet: skipped: {busy}")
            except ValueError as error:
                refused.append(str(error))
        print_collected(console, found, dry_run=dry_run)
        for reason in dict.fromkeys(item.postponed for item in found if item.postponed is not None):
            errors.print(f"ratchet: {reason}; the copies in MLflow go with the next gc")
        if refused:
            raise ValueError("; ".join(refused))
