"""`ratchet infer-reward`: the reward that a campaign's rounds imply, as a judge."""

from pathlib import Path
from typing import Annotated

import typer

from components.campaign.state import campaign_directory, known_state
from flows.terminal.console import CampaignArgument, console, errors, quiet_libraries, reporting_errors

LOG_FILE = "inferred_reward.log"


def infer_reward(
    campaign: CampaignArgument,
    round: Annotated[
        int | None, typer.Option("--round", min=1, help="Round whose model is taken; without it the champion's.")
    ] = None,
    demonstrations: Annotated[
        str,
        typer.Option(
            help="Demonstrations to measure it on; without it the campaign's own that answer held-out prompts. Those "
            "whose prompts a round trained on are left out."
        ),
    ] = "",
    split: Annotated[str, typer.Option(help="Split to read, if the demonstrations are a `datasets` name.")] = "train",
    against: Annotated[
        Path | None,
        typer.Option(metavar="REWARD_MODEL_DIR", help="Reward model to compare with, as of `ratchet reward-model`."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Answers of the start model to each prompt.")] = 4,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory in which `inferred_reward/` is written; without it one of the campaign's."),
    ] = None,
) -> None:
    """Save the reward that a campaign has inferred: beta times the log-ratio of its champion and its start model.

    Prints how often it puts a held-out demonstration above the start model's own answers, beside chance and beside a
    trained reward model, and the section `judge` with which any campaign uses it.

    Example: [bold]ratchet infer-reward ditto --demonstrations unseen.jsonl --against rewards/reward_model[/bold]
    """
    with reporting_errors():
        known_state(campaign)
        directory = campaign_directory(campaign)
        quiet_libraries()
        from components.campaign.lock import writing
        from components.inferred_reward.preparing import Source, prepare_request
        from components.runtime import progress
        from components.runtime.launch import run_stage
        from components.runtime.stage_log import logged_to
        from flows.terminal.inferred_reward import print_inferred_reward, record_in_mlflow
        from flows.terminal.rounds import StageProgress

        with StageProgress(console) as display, progress.reporting_to(display):
            progress.began(campaign, "checks")
            source = Source(demonstrations, split)
            request = prepare_request(directory, round=round, source=source, against=against, samples=samples)
            place = out or directory / "rewards" / f"round-{request.policy.round:03d}"
            target = place / "inferred_reward"
            if place.exists() and not place.is_dir():
                raise ValueError(f"{place} is a file: name a folder, in which inferred_reward/ appears")
            if target.exists() and not (target / "MANIFEST.json").is_file():
                raise ValueError(f"{target} exists and was not made by this command: name another folder")
            with writing(place.resolve(), command="ratchet infer-reward"), logged_to(place / LOG_FILE):
                run_stage("inferred_reward", request, place)
        print_inferred_reward(console, target)
        unrecorded = record_in_mlflow(directory, target)
        if unrecorded is not None:
            errors.print(f"ratchet: note: {unrecorded}", highlight=False, markup=False, soft_wrap=True)
