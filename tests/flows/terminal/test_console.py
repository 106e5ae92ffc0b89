"""The one-line report of an error, that no domain error reaches a user as a traceback, and text that stays text."""

import errno
import io
import os

import pytest
import typer
from rich.table import Table
from rich.text import Text

from components import records
from components.campaign.lock import Busy, CampaignBusy
from components.tracking import TrackingUnavailable
from flows.terminal.console import SYSTEM_REMEDIES, PlainConsole, reporting_errors

HOSTILE = "[/v1/chat] \x1b]0;owned\x07\x1b[2J\x9b31m \u202e :warning: [red]down[/] \ud800"
SHOWN = "[/v1/chat] ]0;owned[2J31m  :warning: [red]down[/] "
"""The same without what steers a terminal: nothing of it is markup."""

DOMAIN_ERRORS = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Exception)] + [
    Busy,
    CampaignBusy,
    TrackingUnavailable,
]


@pytest.mark.parametrize("kind", DOMAIN_ERRORS, ids=lambda kind: kind.__name__)
def test_reporting_errors_every_domain_error_is_one_line_without_traceback(kind, capsys) -> None:
    with pytest.raises(typer.Exit), reporting_errors():
        raise kind("what {went} wrong")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("ratchet: ")
    assert "what {went} wrong" in lines[0]


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (ValueError("x is empty"), 2, "ratchet: x is empty"),
        (CampaignBusy("campaign c is busy"), 2, "ratchet: campaign c is busy; try again when it has finished"),
        (
            records.DataRejected("3 pairs"),
            1,
            "ratchet: 3 pairs; change the data or the config and continue with --accept-changes",
        ),
        (records.JudgeUnavailable("no verdicts"), 1, "ratchet: no verdicts; run the same command again to continue"),
        (records.StageFailed("evaluate: oops"), 1, "ratchet: evaluate: oops; run the same command again to continue"),
        (records.RoundStopped("enough"), 1, "ratchet: stopped: enough"),
        (TrackingUnavailable("MLflow is away"), 1, "ratchet: MLflow is away"),
        (KeyboardInterrupt(), 1, "ratchet: interrupted; run the same command again to continue"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_reporting_errors_kind_of_error_decides_exit_code_and_remedy(
    error: BaseException, exit_code: int, line: str, capsys
) -> None:
    with pytest.raises(typer.Exit) as ended, reporting_errors():
        raise error
    assert ended.value.exit_code == exit_code
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("number", sorted(SYSTEM_REMEDIES), ids=errno.errorcode.get)
def test_reporting_errors_failure_of_the_machine_is_one_line_with_its_remedy(number: int, capsys) -> None:
    """A full disk was a traceback of 117 lines, a colleague's directory one of 44 to 78."""
    error = OSError(number, os.strerror(number), "/data/report.html")
    with pytest.raises(typer.Exit) as ended, reporting_errors():
        raise error
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == f"ratchet: {error}: {SYSTEM_REMEDIES[number]}\n"


def test_reporting_errors_of_foreign_text_is_one_printable_line(capsys) -> None:
    with pytest.raises(typer.Exit), reporting_errors():
        raise records.JudgeUnavailable(f"it said {HOSTILE}\n\rratchet: done\u2028all rounds promoted")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ratchet: it said [/v1/chat]")
    assert line.isprintable()


def test_console_shows_foreign_text_as_text_wherever_it_stands() -> None:
    """An ESC sequence clears the screen or forges a line, and `[/...]` ended the command with a MarkupError."""
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=True, width=120, color_system=None, highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    for shown in (HOSTILE, Text(HOSTILE), table):
        console.print(shown)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines == [SHOWN.rstrip()] * 4


def test_console_keeps_the_colours_that_rich_itself_sends() -> None:
    stream = io.StringIO()
    console = PlainConsole(file=stream, force_terminal=True, width=80, color_system="standard")
    console.print(Text("BAD \x1b[2J", style="red"))
    assert stream.getvalue() == "\x1b[31mBAD [2J\x1b[0m\n"


def test_reporting_errors_defect_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), reporting_errors():
        raise KeyError("a bug")


def test_reporting_errors_missing_file_is_a_defect_of_ours_too() -> None:
    with pytest.raises(FileNotFoundError), reporting_errors():
        os.stat("/nowhere/of/ours")
