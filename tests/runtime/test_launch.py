"""Stages run once for a key; children die with their parent, and their errors and memory come back."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.artifacts import read_json, write_json
from components.config import GateConfig
from components.records import (
    Artifact,
    DataRejected,
    JudgeUnavailable,
    NewerVersion,
    PromoteRequest,
    RoundStopped,
    StageFailed,
)
from components.runtime.children import output_pipes, server_process
from components.runtime.launch import STAGES, Placement, Stage, load_stages, run_stage
from components.runtime.machine import visible_gpus

ROOT = Path(__file__).parents[2]
MODULE = """
import os, time
from pathlib import Path
from components.records import DataRejected, JudgeUnavailable, RoundStopped
def run(request, out):
    (out / "seen.txt").write_text(request.evaluation.digest)
    with open({log!r}, "a") as file: file.write(f"{{os.getpid()}}\\n")
    print("a line of a child")
    {body}
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage of its own whose body a test writes; returns the file that gets a line for every time it ran."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.getcwd()}")
    monkeypatch.setitem(STAGES, "promote", Stage("a_stage", PromoteRequest, 1))
    monkeypatch.delitem(sys.modules, "a_stage", raising=False)
    write(tmp_path, "pass")
    return tmp_path / "ran.txt"


def write(tmp_path: Path, body: str) -> None:
    (tmp_path / "a_stage.py").write_text(MODULE.format(log=str(tmp_path / "ran.txt"), body=body))


def request(digest: str = "1") -> PromoteRequest:
    return PromoteRequest(evaluation=Artifact(path=Path("/nowhere"), digest=digest), gate=GateConfig())


def times_run(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_run_stage_same_key_runs_once_other_key_runs_again(stage: Path, tmp_path: Path) -> None:
    first = run_stage("promote", request(), tmp_path / "round")
    assert run_stage("promote", request(), tmp_path / "round") == first
    assert times_run(stage) == 1
    run_stage("promote", request("2"), tmp_path / "round")
    assert times_run(stage) == 2
    assert (tmp_path / "round" / "promote" / "seen.txt").read_text() == "2"


def test_run_stage_damaged_result_is_run_again(stage: Path, tmp_path: Path) -> None:
    run_stage("promote", request(), tmp_path / "round")
    (tmp_path / "round" / "promote" / "seen.txt").write_text("tampered")
    run_stage("promote", request(), tmp_path / "round")
    assert times_run(stage) == 2


def test_run_stage_of_a_newer_version_is_refused_and_stays(stage: Path, tmp_path: Path) -> None:
    """Two versions on one disk took turns in making the stage again, each over the other's result."""
    run_stage("promote", request(), tmp_path / "round")
    manifest = tmp_path / "round" / "promote" / "MANIFEST.json"
    write_json(manifest, read_json(manifest) | {"version": 2})
    with pytest.raises(NewerVersion, match="it has version 2 of promote, and this version 1"):
        run_stage("promote", request("2"), tmp_path / "round")
    assert times_run(stage) == 1
    assert (tmp_path / "round" / "promote" / "seen.txt").read_text() == "1"


def test_run_stage_error_is_a_stage_failure_and_leaves_nothing(stage: Path, tmp_path: Path) -> None:
    write(tmp_path, "raise ValueError('bad luck')")
    with pytest.raises(StageFailed, match="promote failed: ValueError: bad luck"):
        run_stage("promote", request(), tmp_path / "round")
    assert os.listdir(tmp_path / "round") == []


def test_run_stage_judge_beyond_a_limit_keeps_what_it_said_beside(stage: Path, tmp_path: Path) -> None:
    write(tmp_path, "raise JudgeUnavailable('it goes by length')")
    with pytest.raises(JudgeUnavailable, match=r"it goes by length; the verdicts are in .*rejected-promote"):
        run_stage("promote", request(), tmp_path / "round")
    assert (tmp_path / "round" / "rejected-promote" / "seen.txt").read_text() == "1"


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_stage_judge_that_said_nothing_leaves_nothing(ranks: int, stage: Path, tmp_path: Path) -> None:
    write(tmp_path, "(out / 'seen.txt').unlink(); raise JudgeUnavailable('no answer')")
    with pytest.raises(JudgeUnavailable, match=r"^no answer$"):
        run_stage("promote", request(), tmp_path / "round", where=Placement(num_processes=ranks))
    assert os.listdir(tmp_path / "round") == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_stage_that_stops_at_a_judges_budget_is_no_failure(ranks: int, stage: Path, tmp_path: Path) -> None:
    write(tmp_path, "raise RoundStopped('enough paid')")
    with pytest.raises(RoundStopped, match=r"^enough paid$"):
        run_stage("promote", request(), tmp_path / "round", where=Placement(num_processes=ranks))
    assert os.listdir(tmp_path / "round") == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_run_stage_rejected_data_keeps_its_files_beside(ranks: int, stage: Path, tmp_path: Path) -> None:
    write(tmp_path, "raise DataRejected('12 of 20 pairs')")
    with pytest.raises(DataRejected, match=r"12 of 20 pairs; the rejected rows are in .*rejected-promote"):
        run_stage("promote", request(), tmp_path / "round", where=Placement(num_processes=ranks))
    assert (tmp_path / "round" / "rejected-promote" / "seen.txt").read_text() == "1"
    assert os.listdir(tmp_path / "round") == ["rejected-promote"]


def test_run_stage_in_children_publishes_logs_and_measures(
    stage: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="components.runtime.launch")
    manifest = run_stage("promote", request(), tmp_path / "round", where=Placement(num_processes=2))
    assert set(manifest.files) == {"seen.txt"}
    assert times_run(stage) == 2
    assert caplog.text.count("a line of a child") == 2
    assert manifest.peak_memory_bytes > 2 * 10 * 2**20


@pytest.mark.parametrize("starter", ["child_process", "server_process"])
def test_what_a_killed_parent_started_dies(starter: str, tmp_path: Path) -> None:
    sleeper = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    # A server's own children must go too; a plain child is the sleeper itself.
    server = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    started = {"child_process": sleeper, "server_process": server}[starter]
    code = f"""
import sys
from components.runtime.children import {starter}
with {starter}([sys.executable, "-c", {started!r}]) as child:
    child.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    pid = wait_for(tmp_path / "pid")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert_gone(pid)


def test_server_that_ends_when_asked_is_not_waited_for(tmp_path: Path) -> None:
    sleeper = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with server_process([sys.executable, "-c", sleeper]):
        pid = wait_for(tmp_path / "pid")
        asked = time.monotonic()
    assert_gone(pid)
    assert time.monotonic() - asked < 4, "as long as one that has to be killed"


def test_torchrun_ranks_die_with_a_parent_that_is_killed(stage: Path, tmp_path: Path) -> None:
    write(
        tmp_path, f"Path({str(tmp_path)!r}, 'rank' + os.environ['RANK']).write_text(str(os.getpid())); time.sleep(120)"
    )
    code = f"""
import sys
from pathlib import Path
from components.runtime import launch
from components.config import GateConfig
from components.records import Artifact, PromoteRequest
launch.STAGES["promote"] = launch.Stage("a_stage", PromoteRequest, 1)
asked = PromoteRequest(evaluation=Artifact(path=Path("/nowhere"), digest="1"), gate=GateConfig())
launch.run_stage("promote", asked, Path({str(tmp_path / "round")!r}), where=launch.Placement(num_processes=2))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    pids = [wait_for(tmp_path / f"rank{rank}") for rank in range(2)]
    pids += [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for pid in pids:
        assert_gone(pid)


def test_rank_whose_agent_was_killed_before_it_could_ask_for_its_end_leaves(tmp_path: Path) -> None:
    """It waited for ever to open its pipe, which nobody reads any more."""
    os.mkfifo(tmp_path / "pipe")
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "RATCHET_AGENT": "1"}
    command = [sys.executable, "-m", "components.runtime.rank", str(tmp_path), str(tmp_path), str(tmp_path / "pipe")]
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=60, check=False).returncode == 1


def test_pipes_of_a_killed_process_are_removed_by_the_next_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.ExitStack() as killed:
        for name in ("killed", "new"):
            (tmp_path / f"ratchet-output-{name}").mkdir()
            os.mkfifo(tmp_path / f"ratchet-output-{name}" / "0")
        (pipe,) = killed.enter_context(output_pipes(1))
        in_use = Path(pipe).parent
        for directory in (tmp_path / "ratchet-output-killed", in_use):
            os.utime(directory, (0, 0))
        with output_pipes(2) as pipes:
            assert {path.name for path in tmp_path.iterdir()} == {
                "ratchet-output-new",
                in_use.name,
                Path(pipes[0]).parent.name,
            }


def test_ranks_run_our_code_though_the_current_directory_has_packages_of_its_names(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m` looks in the current directory first, and users have a folder `components` as well."""
    (tmp_path / "mine" / "components").mkdir(parents=True)
    (tmp_path / "mine" / "components" / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path / "mine")
    assert set(run_stage("promote", request(), tmp_path / "round", where=Placement(num_processes=2)).files) == {
        "seen.txt"
    }


def wait_for(path: Path, seconds: float = 60) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise TimeoutError(path)


def assert_gone(pid: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")


@pytest.mark.parametrize(("value", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,3", 2)])
def test_visible_gpus_follow_the_environment(value: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == count


@pytest.mark.parametrize(("gpus", "here"), [("", True), ("0", False)])
def test_stages_are_loaded_where_they_will_run(
    gpus: str, here: bool, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(
        "components.runtime.launch.STAGES", {"promote": Stage("a_stage", PromoteRequest, 1, on_accelerator=True)}
    )
    load_stages()
    assert ("a_stage" in sys.modules) is here
    assert not stage.exists(), "it is loaded and not run"
