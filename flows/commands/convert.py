"""The command that converts preference data from one published form into another one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.console import console, quiet_libraries, reporting_errors


class PairChoice(StrEnum):
    """Which pairs are built of a prompt with several rated answers."""

    BEST_WORST = "best_worst"
    ALL_PAIRS = "all_pairs"


class Unfit(StrEnum):
    """What happens to a pair that the form to write cannot hold."""

    REFUSE = "refuse"
    SKIP = "skip"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="JSONL, JSON, CSV or Parquet file (packed by .gz or .zst), saved data set or hub name."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="File to write: .parquet, or .jsonl, .json (an array), .csv or .tsv, packed by a further .gz or .zst.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Form to write: ratchet, trl, trl-text, trl-implicit, kto, hh, openai, sharegpt, ultrafeedback, "
            "helpsteer2, helpsteer2-preference, helpsteer3, argilla or label-studio."
        ),
    ],
    source_form: Annotated[
        str | None, typer.Option("--from", help="Form to read, if it is not to be recognised by the columns.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to read, if the data has splits.")] = "train",
    pairs: Annotated[
        PairChoice,
        typer.Option(help="Pairs of a prompt with more than two rated answers: the best with the worst, or every two."),
    ] = PairChoice.BEST_WORST,
    unfit: Annotated[
        Unfit,
        typer.Option(
            help="For pairs that do not fit the form, such as some with tools: refuse the file, or skip them."
        ),
    ] = Unfit.REFUSE,
) -> None:
    """Convert preference data from one published form into another one.

    The form of the data is recognised by its columns and named. Each pair is read back before it is written, and what
    the new form does not hold (p, margin, tag, other columns) is counted. OUT appears complete or not at all.

    Example: [bold]ratchet convert hh.jsonl.gz pairs.jsonl --to trl[/bold]
    """
    with reporting_errors():
        quiet_libraries()
        from components.data.forms.convert import convert as converted
        from components.runtime import progress
        from flows.terminal.convert import print_conversion
        from flows.terminal.rounds import StageProgress

        with StageProgress(console) as bar, progress.reporting_to(bar):
            progress.began("convert", Path(source).name)
            conversion = converted(
                source,
                out,
                target=to,
                source_form=source_form,
                split=split,
                choice=pairs.value,
                unfit=unfit.value,
            )
        print_conversion(console, conversion, out)
