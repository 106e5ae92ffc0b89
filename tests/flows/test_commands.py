"""The commands that only look."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.artifacts import write_json
from components.campaign import Champion, State, write_state
from components.config import CampaignConfig
from components.records import Interval, RoundRecord
from flows.cli import app

RATE = Interval(value=0.7, low=0.65, high=0.75, n=256)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A campaign with one promoted and one refused round, and an open third."""
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    directory = tmp_path / "runs" / "camp"
    directory.mkdir(parents=True)
    write_json(directory / "config.json", CampaignConfig(campaign="camp").model_dump(mode="json"))
    records = [
        RoundRecord(
            round=number,
            promoted=number == 1,
            reasons=(f"reason {number}",),
            num_pairs=100 + number,
            win_rate_vs_champion=RATE,
            win_rate_vs_start=RATE,
            kl_to_start=1.5,
            mean_tokens=20.0,
            mean_reward=2.0,
            seconds={"dpo_train": 12.5},
            policy_digest=f"p{number}",
            reference_digest="r",
        )
        for number in (1, 2)
    ]
    write_state(directory, State(campaign="camp", champion=Champion(round=1, digest="p1"), target=3, rounds=tuple(records)))
    return tmp_path / "runs"


def test_status_shows_rounds_reasons_and_what_is_open(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(app, ["status", "camp"])
    assert told.exit_code == 0
    for text in ("the champion is round 1 (*)", "0.700 (0.650–0.750)", "promoted", "round 2 refused: reason 2", "12.5", "goes to round 3"):
        assert text in told.output, text
    assert "…" not in told.output


def test_report_writes_the_file_and_prints_its_place(runs: Path) -> None:
    told = CliRunner().invoke(app, ["report", "camp"])
    assert told.exit_code == 0
    assert Path(told.output.strip()) == runs / "camp" / "report.html"
    assert "reason 2" in (runs / "camp" / "report.html").read_text()


def test_doctor_on_a_machine_that_can_run_finds_nothing_bad(runs: Path) -> None:
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0, told.output
    for name in ("python", "torch", "deepspeed", "fastapi", "processor", "accelerators", "disk", "stores"):
        assert f"ok   {name}" in told.output, name


def test_doctor_library_that_is_missing_is_bad(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    installed = importlib.metadata.version

    def without_peft(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", without_peft)
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 1
    assert "BAD  peft" in told.output


def test_run_changed_config_is_refused_before_anything_starts(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("campaign: camp\nseed: 18")
    told = CliRunner().invoke(app, ["run", str(tmp_path / "c.yaml")])
    assert told.exit_code == 2
    assert "seed: 17 -> 18" in told.stderr
    assert "--accept-changes" in told.stderr
