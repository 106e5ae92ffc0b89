"""`ratchet reward-model`: train a judge on preference pairs."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from components.config import RewardModelConfig, load_settings
from flows.terminal.console import console, quiet_libraries, reporting_errors

LOG_FILE = "reward_model.log"


def reward_model(
    pairs: Annotated[
        str,
        typer.Argument(help="Preference pairs in any published form, or the train.parquet of a round."),
    ],
    base: Annotated[str, typer.Option(help="Model to start from: a directory, a hub name, or `builtin`.")],
    out: Annotated[Path, typer.Option(help="Directory in which `reward_model/` is written.")],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with what differs from the defaults, such as `learning_rate: 3.0e-5`."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of a key, instead of the file's; may be repeated."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Hub revision of the base.")] = "main",
    split: Annotated[str, typer.Option(help="Split to read, if the pairs are a `datasets` name.")] = "train",
) -> None:
    """Train a reward model on preference pairs and measure it on held-out prompts.

    Prints its accuracy and calibration, and the section `judge` with which a campaign uses it. An interrupted training
    continues from its last checkpoint when the same command is run again. `ratchet reference` lists the keys of the
    file, under "A reward model".

    Example: [bold]ratchet reward-model pairs.jsonl --base ./my-instruct-model --out rewards[/bold]
    """
    with reporting_errors():
        settings = load_settings(config, RewardModelConfig, set_ or [])
        quiet_libraries()
        from components.campaign.lock import writing
        from components.reward_model.preparing import check_place, prepare_request
        from components.runtime import progress
        from components.runtime.launch import Placement, run_stage
        from components.runtime.stage_log import logged_to
        from flows.terminal.reward_model import print_reward_model
        from flows.terminal.rounds import StageProgress

        check_place(out)
        with StageProgress(console) as display, progress.reporting_to(display):
            progress.began(out.name, "checks")
            request = prepare_request(pairs, split=split, base=base, revision=revision, settings=settings)
            with writing(out.resolve(), command="ratchet reward-model"), logged_to(out / LOG_FILE):
                run_stage("reward_model", request, out, where=Placement(num_processes=settings.num_processes))
                shutil.rmtree(out / "checkpoints", ignore_errors=True)
        print_reward_model(console, out / "reward_model")
