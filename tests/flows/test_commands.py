"""The commands that only read."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.artifacts import write_json
from components.campaign.state import Champion, State, read_state, write_state
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
    write_state(
        directory, State(campaign="camp", champion=Champion(round=1, digest="p1"), target=3, rounds=tuple(records))
    )
    return tmp_path / "runs"


def test_status_shows_rounds_reasons_and_what_is_open(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = CliRunner().invoke(app, ["status", "camp"])
    assert told.exit_code == 0
    for text in (
        "the champion is round 1 (*)",
        "0.700 (0.650–0.750)",
        "promoted",
        "round 2 refused: reason 2",
        "12.5",
        "goes to round 3",
    ):
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


def test_doctor_with_a_config_says_how_its_model_is_sampled_and_scored(
    runs: Path, tmp_path: Path, starter_directory: Path
) -> None:
    config = tmp_path / "campaign.yaml"
    text = f"campaign: c\npolicy: {{model: {starter_directory}, dtype: float32}}\ntraining: {{weighting: wpo}}\n"
    config.write_text(text)
    told = CliRunner().invoke(app, ["doctor", str(config)])
    assert told.exit_code == 0, told.output
    assert "ok   sampling       shared prompts (each prompt's keys and values are read once" in told.output
    assert "ok   scoring        padded rows, which is slower: collision probabilities" in told.output
    config.write_text(text.replace(str(starter_directory), str(tmp_path)))
    told = CliRunner().invoke(app, ["doctor", str(config)])
    assert told.exit_code == 1
    assert "BAD  model" in told.output
    assert "has no config.json" in told.output


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


def test_status_of_a_long_campaign_shows_the_latest_rounds_and_the_champions(runs: Path) -> None:
    state = read_state(runs / "camp")
    assert state is not None
    rounds = [state.rounds[0].model_copy(update={"round": number, "promoted": number == 7}) for number in range(1, 501)]
    champion = Champion(round=7, digest="p1")
    write_state(runs / "camp", state.model_copy(update={"rounds": tuple(rounds), "champion": champion, "target": None}))

    def rows(*arguments: str) -> list[str]:
        told = CliRunner().invoke(app, ["status", "camp", *arguments])
        assert told.exit_code == 0, told.output
        assert ("479 earlier rounds are left out" in told.output) is not bool(arguments)
        lines = told.output.splitlines()
        first = next(index for index, line in enumerate(lines) if line.startswith("round pairs"))
        return [
            line.split()[0] for line in lines[first + 1 : lines.index("the challengers' means, and seconds a stage")]
        ]

    assert rows() == ["7*", *(str(number) for number in range(481, 501))]
    assert len(rows("--all")) == 500


def test_status_loads_no_table_library() -> None:
    code = (
        "import sys, flows.cli, flows.terminal.rounds\n"
        "print([name for name in ('pandas', 'pyarrow', 'matplotlib') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout
    assert loaded.strip() == "[]"


def test_help_paragraphs_are_wrapped_by_the_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """typer keeps the line breaks of a docstring, which leave half lines on any terminal of another width."""
    monkeypatch.setenv("COLUMNS", "400")
    lines = CliRunner().invoke(app, ["collect", "--help"]).output.splitlines()
    assert any(line.strip().startswith("Writes verdicts") and line.rstrip().endswith("twice.") for line in lines)
