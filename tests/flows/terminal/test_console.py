"""The one-line report of an error, and that no domain error reaches a user as a traceback."""

import pytest
import typer

from components import records
from components.campaign.lock import CampaignBusy
from components.tracking import TrackingUnavailable
from flows.terminal.console import reporting_errors

DOMAIN_ERRORS = [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Exception)] + [
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


def test_reporting_errors_defect_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), reporting_errors():
        raise KeyError("a bug")
