"""The commands that only read."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.artifacts import write_json
from components.campaign import lock
from components.campaign.state import Champion, State, read_state, write_state
from components.config import CampaignConfig
from components.records import Interval, RoundRecord
from flows import doctor
from flows.cli import app
from flows.doctor import mounted

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


@pytest.fixture
def plain_user() -> Iterator[None]:
    """Take the right to pass over permissions from this thread while the test runs; a plain user has none to take."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] = before & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    yield
    data[0] = before
    assert libc.capset(header, data) == 0


@pytest.mark.usefixtures("plain_user")
@pytest.mark.parametrize(
    "command", [["report", "camp"], ["gc", "camp", "--dry-run"], ["rollback", "camp", "0"]], ids=" ".join
)
def test_command_on_a_colleagues_campaign_is_one_line_with_the_remedy(runs: Path, command: list[str]) -> None:
    """It was a traceback of 44 to 78 lines."""
    (runs / "camp").chmod(0o500)
    try:
        told = CliRunner().invoke(app, command)
    finally:
        (runs / "camp").chmod(0o700)
    assert told.exit_code == 1
    (line,) = told.stderr.splitlines()
    assert line.startswith(f"ratchet: [Errno 13] Permission denied: '{runs}/camp/")
    assert "ask its owner for access, or work in a directory of your own (RATCHET_RUNS)" in line


@pytest.mark.usefixtures("plain_user")
def test_gc_of_all_campaigns_skips_a_colleagues_one_by_name(runs: Path) -> None:
    (runs / "camp").chmod(0o500)
    try:
        told = CliRunner().invoke(app, ["gc"])
    finally:
        (runs / "camp").chmod(0o700)
    assert told.exit_code == 0
    assert told.stderr == f"ratchet: skipped: [Errno 13] Permission denied: '{runs}/camp/.lock'\n"


def test_doctor_on_a_machine_that_can_run_finds_nothing_bad(runs: Path) -> None:
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0, told.output
    for name in ("python", "torch", "deepspeed", "fastapi", "processor", "accelerators", "disk", "locks", "stores"):
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


MOUNTS = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,discard
31 22 0:44 / /data rw,relatime shared:5 master:2 - nfs4 box:/data rw,vers=4.2,local_lock=none
32 22 0:45 / /data/my\040team rw,relatime - nfs box:/team rw,vers=3,nolock,local_lock=flock
33 22 0:46 / /bucket rw,nosuid - fuse.s3fs s3fs rw,user_id=0
34 33 0:47 / /bucket rw,nosuid - tmpfs none rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "option"),
    [
        ("/home/ann/runs", "ext4", "discard"),
        ("/data/runs", "nfs4", "local_lock=none"),
        ("/data/my team/runs", "nfs", "local_lock=flock"),
        ("/database", "ext4", "discard"),
        ("/bucket/runs", "tmpfs", "nosuid"),
    ],
)
def test_mounted_names_the_file_system_that_holds_a_path(path: str, kind: str, option: str) -> None:
    found, options = mounted(Path(path), MOUNTS)
    assert (found, option in options) == (kind, True)


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("fuse.s3fs", {"rw"}, "is an object store (fuse.s3fs)"),
        ("nfs", {"rw", "local_lock=flock"}, "(nfs, local_lock=flock) hides its locks"),
    ],
)
def test_doctor_names_a_file_system_on_which_locks_keep_nobody_apart(
    kind: str, options: set[str], problem: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "mounted", lambda path, mountinfo: (kind, options))
    (finding,) = [finding for finding in doctor.findings(runs) if finding.name == "locks"]
    assert not finding.fine
    assert problem in finding.detail


def test_doctor_without_flock_is_bad_with_the_remedy(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    (finding,) = [finding for finding in doctor.findings(runs) if finding.name == "locks"]
    assert not finding.fine
    assert "cannot be locked (Function not implemented): mount its file system with flock" in finding.detail
    assert list(runs.glob(".ratchet-doctor-*")) == []


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
