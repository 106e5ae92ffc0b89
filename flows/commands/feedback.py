"""`ratchet feedback`: what users of the served model said about its answers."""

from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import campaign_directory, known_state
from flows.terminal.console import CampaignArgument, console, reporting_errors


def feedback(
    campaign: CampaignArgument,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the thumbs as preference rows to a new JSONL file.")
    ] = None,
    delete: Annotated[
        str | None, typer.Option(metavar="CONVERSATION", help="Delete everything that was kept of a conversation.")
    ] = None,
) -> None:
    """Show the thumbs and corrections that users of `ratchet serve` gave, and what they say of a canary.

    Texts that are older than `preferences.feedback.retention_days` are deleted first. What a round took stays in that
    round's files, also after `--delete` (docs/feedback.md).

    Example: [bold]ratchet feedback demo --export thumbs.jsonl[/bold]
    """
    with reporting_errors():
        state, directory = known_state(campaign), campaign_directory(campaign)
        from components.artifacts import read_json
        from components.campaign.files import taken_thumbs
        from components.config import PreferencesConfig
        from components.feedback.export import write_export
        from components.feedback.selection import standing
        from components.feedback.stage import taken_ids
        from components.feedback.store import STORE, FeedbackStore
        from components.feedback.summary import compare_arms, count, latest_pair
        from flows.terminal.feedback import print_canary, print_counts

        store = FeedbackStore(directory / STORE)
        store.check()
        settings = PreferencesConfig.model_validate(read_json(directory / "config.json")["preferences"]).feedback
        if erased := store.erase_texts(days=settings.retention_days):
            _say(f"deleted the texts of {erased} thumbs that are older than {settings.retention_days} days")
        if delete is not None:
            deleted = store.delete_conversation(delete)
            if not deleted:
                raise ValueError(f"nothing is kept of a conversation {delete}: the chat page shows its number")
            _say(f"deleted {deleted} thumbs of conversation {delete}")
        rows = standing(store.rows())
        if export is not None:
            _say(f"{write_export(export, rows)} rows in {export}")
        print_counts(console, campaign, count(rows, taken_ids(taken_thumbs(directory, state.last_round + 2))))
        if (pair := latest_pair(rows)) is not None:
            print_canary(console, compare_arms(rows, champion=pair[0], challenger=pair[1]))


def _say(line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)
