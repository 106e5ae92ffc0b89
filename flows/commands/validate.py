"""`ratchet validate`: check a file of preference pairs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from components.config import ChecksConfig, load_config
from flows.terminal.console import console, quiet_libraries, reporting_errors

REFUSED = 3
"""Exit code if a check failed."""


def validate(
    pairs: Annotated[
        str,
        typer.Argument(
            help="Preference data in any published form: a JSON, CSV or Parquet file (packed by .gz or .zst), a saved "
            "data set or a hub name."
        ),
    ],
    report: Annotated[
        Path | None,
        typer.Option(help="Directory for validation.json, quarantine.parquet and report.html; left out, none is kept."),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Prompts or pairs whose prompts must not be trained on, in the same forms.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A campaign's YAML file, whose section checks is used, such as `checks: {secrets: ...}`."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to read, if the data is a `datasets` name.")] = "train",
) -> None:
    """Check preference pairs before they are trained on: form, repetition, contradictions, leakage, secrets and more.

    Ends with exit code 0 if no check failed, 3 if one did, and 2 if the data cannot be read. Examples are shortened,
    with personal data and secrets masked; quarantine.parquet holds the rejected rows as they are, with their reasons.

    Example: [bold]ratchet validate pairs.jsonl --held-out held-out.jsonl --report checked[/bold]
    """
    with reporting_errors():
        settings = ChecksConfig() if config is None else load_config(config).checks
        quiet_libraries()
        from components.checks.publish import check_pairs
        from flows.terminal.checks import print_checks

        with _shown(report, pairs):
            result = check_pairs(pairs, split=split, config=settings, held_out=held_out, out=report)
        print_checks(console, result, report)
        if result.verdict == "fail":
            raise typer.Exit(REFUSED)


@contextlib.contextmanager
def _shown(report: Path | None, pairs: str) -> Iterator[None]:
    """Show the progress of the checks within the block, and log it beside the report."""
    from components.runtime import progress
    from components.runtime.stage_log import logged_to
    from flows.terminal.rounds import StageProgress

    with contextlib.ExitStack() as stack:
        display = stack.enter_context(StageProgress(console))
        stack.enter_context(progress.reporting_to(display))
        if report is not None:
            stack.enter_context(logged_to(report.absolute().with_name(f"{report.absolute().name}.log")))
        progress.began(Path(pairs).name, "checks")
        yield
