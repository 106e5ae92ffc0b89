"""The results of data checks on the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.checks.file_check import FileResult
from components.checks.outcome import CheckResult
from components.checks.publish import PAGE, QUARANTINE

STYLES = {"fail": "bold red", "warn": "yellow", "pass": "green", "skipped": "dim"}


def print_checks(console: Console, result: FileResult, report: Path | None) -> None:
    """Print a line per check, an example of each one that fails or warns, and where the report is."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict")
    table.add_column("limit", justify="right")
    table.add_column("found")
    for check in result.checks:
        limit = "" if check.share is None else f"{check.max_share:.1%}"
        table.add_row(check.name, Text(check.verdict, STYLES[check.verdict]), limit, check.summary)
    console.print(table)
    for check in result.checks:
        if check.verdict in ("fail", "warn"):
            _print_examples(console, check)
    if result.form:
        console.print(f"form     {result.form}: {result.num_pairs:,} pairs", highlight=False)
    for reason, count in result.left_out.items():
        console.print(f"no pair  {count:,} rows: {reason}", highlight=False, soft_wrap=True)
    kept = f"; {report / QUARANTINE} holds them" if report and result.rejected else ""
    console.print(f"{len(result.rejected):,} of {result.num_rows:,} rows are rejected{kept}", highlight=False)
    if report is not None:
        console.print(f"report   {report / PAGE}", highlight=False, soft_wrap=True)


def _print_examples(console: Console, check: CheckResult) -> None:
    for example in check.examples[:1]:
        console.print(f"{check.name}: {example.place}: {example.detail}", highlight=False, soft_wrap=True)
        if example.excerpt:
            console.print(f"    {example.excerpt}", highlight=False, soft_wrap=True, style="dim")
