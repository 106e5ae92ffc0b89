"""`ratchet sft`: train a model on demonstrations, before preferences."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from components.config import SftConfig, load_settings
from flows.terminal.console import console, quiet_libraries, reporting_errors

LOG_FILE = "sft.log"


def sft(
    demonstrations: Annotated[
        str,
        typer.Argument(help="Conversations: prompt and completion, chat messages, or transcripts in text."),
    ],
    base: Annotated[str, typer.Option(help="Model to start from: a directory, a hub name, or `builtin`.")],
    out: Annotated[Path, typer.Option(help="Directory in which `sft/` is written.")],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with what differs from the defaults, such as `learning_rate: 3.0e-5`."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Value of a key, instead of the file's; may be repeated."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Hub revision of the base.")] = "main",
    split: Annotated[str, typer.Option(help="Split to read, if the data is a `datasets` name.")] = "train",
) -> None:
    """Train a model on demonstrations, on the assistant's turns only, and measure it on held-out prompts.

    Prints the loss before and after, and the section `policy` with which a campaign begins with the model. An
    interrupted training continues from its last checkpoint when the same command is run again. `ratchet reference`
    lists the keys of the file, under "Supervised fine-tuning".

    Example: [bold]ratchet sft demonstrations.jsonl --base ./my-model --out first --set lora.rank=16[/bold]
    """
    with reporting_errors():
        settings = load_settings(config, SftConfig, set_ or [])
        quiet_libraries()
        from components.campaign.lock import writing
        from components.runtime import progress
        from components.runtime.launch import Placement, run_stage
        from components.runtime.stage_log import logged_to
        from components.sft.preparing import check_place, prepare_request
        from flows.terminal.rounds import StageProgress
        from flows.terminal.sft import print_sft

        check_place(out)
        with StageProgress(console) as display, progress.reporting_to(display):
            progress.began(out.name, "checks")
            request = prepare_request(
                demonstrations,
                split=split,
                base=base,
                revision=revision,
                settings=settings,
                system_prompt="",
                held_out=(),
            )
            with writing(out.resolve(), command="ratchet sft"), logged_to(out / LOG_FILE):
                run_stage("sft", request, out, where=Placement(num_processes=settings.num_processes))
                shutil.rmtree(out / "checkpoints", ignore_errors=True)
        print_sft(console, out / "sft")
