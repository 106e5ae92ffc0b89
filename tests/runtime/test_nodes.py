"""A stage on several nodes: ranks meet, their lines carry the node's name, and a lost node is named.

The nodes are processes of this machine; tests/nodes has machines of their own.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.config import CampaignConfig, GateConfig, LauncherConfig
from components.records import Artifact, DataRejected, PromoteRequest, StageFailed
from components.runtime.children import child_process
from components.runtime.launch import STAGES, Placement, Stage, run_stage
from components.runtime.launchers import slurm
from components.runtime.launchers.registry import check_launcher
from components.runtime.node import main
from components.runtime.nodes import Nodes
from components.runtime.rank import is_lost_connection
from tests.runtime import slurm_stand_in

MODULE = """
import os, time
import torch, torch.distributed as dist
from components.records import DataRejected
from components.runtime import progress
def run(request, out):
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    (out / f"rank-{{rank}}.txt").write_text(f"{{size}} {{os.environ['SLURMD_NODENAME']}}")
    print(f"rank {{rank}} is here")
    {body}
"""
SLURM = LauncherConfig(kind="slurm")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Takes the body of a stage that runs on nodes; returns the directory in which its round lies."""
    slurm_stand_in.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.getcwd()}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(STAGES, "promote", Stage("a_stage_of_nodes", PromoteRequest, 1))

    def write(body: str) -> Path:
        (tmp_path / "a_stage_of_nodes.py").write_text(MODULE.format(body=body))
        return tmp_path / "round"

    return write


def request() -> PromoteRequest:
    return PromoteRequest(evaluation=Artifact(path=Path("/nowhere"), digest="1"), gate=GateConfig())


def own_processes(directory: Path) -> list[psutil.Process]:
    """Return the processes of a stage: the directory stands in their command lines."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(directory) in word for word in process.cmdline()) and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def assert_nobody_left(directory: Path) -> None:
    deadline = time.monotonic() + 20
    while left := own_processes(directory):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def when_begun(directory: Path, act: Callable[[], None]) -> threading.Thread:
    """Do something when both ranks of a stage have begun."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while len(list(directory.glob(".promote*/rank-*.txt"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def node_process(directory: Path, name: str) -> psutil.Process:
    return next(
        process
        for process in own_processes(directory)
        if "components.runtime.node" in process.cmdline() and process.environ().get("SLURMD_NODENAME") == name
    )


def test_two_nodes_are_one_world_and_their_lines_carry_their_names(
    stage: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="components.runtime")
    round = stage("progress.report(rank + 1, 3, 'a fact')")
    manifest = run_stage("promote", request(), round, where=Placement(nodes=2, launcher=SLURM))
    assert set(manifest.files) == {"rank-0.txt", "rank-1.txt"}
    told = {(round / "promote" / f"rank-{rank}.txt").read_text() for rank in range(2)}
    assert told == {"2 n1", "2 n2"}
    assert {"node n1 works (1 of 2)", "node n2 works (2 of 2)"} <= set(caplog.messages)
    said = {line for line in caplog.messages if "is here" in line}
    assert len(said) == 2
    assert {line[:4] for line in said} == {"[n1]", "[n2]"}
    assert manifest.peak_memory_bytes > 2 * 10 * 2**20
    assert_nobody_left(round)


def test_error_of_one_rank_is_the_stages_error_and_ends_the_others(stage: Callable[[str], Path]) -> None:
    round = stage("if rank == 1: raise DataRejected('12 of 20 pairs')\n    time.sleep(100)")
    with pytest.raises(DataRejected, match="12 of 20 pairs"):
        run_stage("promote", request(), round, where=Placement(nodes=2, launcher=SLURM))
    assert_nobody_left(round)


def test_killed_node_is_named_and_its_stage_may_be_tried_again(stage: Callable[[str], Path]) -> None:
    """The surviving rank failed by its broken connection, which was taken for the cause and not tried again."""
    round = stage("[dist.barrier() for _ in iter(lambda: time.sleep(0.1), 1)]")
    when_begun(round, lambda: node_process(round, "n2").kill())
    with pytest.raises(StageFailed, match="promote failed: lost node n2; last lines") as failed:
        run_stage("promote", request(), round, where=Placement(nodes=2, launcher=SLURM))
    assert failed.value.may_pass
    assert_nobody_left(round)


def test_silent_node_is_named_and_everything_is_ended(stage: Callable[[str], Path]) -> None:
    round = stage("[dist.barrier() for _ in iter(lambda: time.sleep(0.1), 1)]")

    def stop() -> None:
        node = node_process(round, "n2")
        for process in (node, *node.children(recursive=True)):
            process.suspend()

    when_begun(round, stop)
    launcher = LauncherConfig.model_construct(**dict(SLURM) | {"silence_seconds": 12.0})
    try:
        with pytest.raises(StageFailed, match="promote failed: lost node n2") as failed:
            run_stage("promote", request(), round, where=Placement(nodes=2, launcher=launcher))
    finally:
        for process in own_processes(round):
            process.send_signal(signal.SIGCONT)
    assert failed.value.may_pass
    assert_nobody_left(round)


def test_killed_rank_of_one_machine_may_be_tried_again(
    stage: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that lacks memory is killed; the error of the other one, a lost connection, was taken for the cause."""
    monkeypatch.setenv("SLURMD_NODENAME", "here")
    round = stage("if rank == 1: os.kill(os.getpid(), 9)\n    dist.barrier()")
    with pytest.raises(StageFailed, match="promote failed: its processes exited with code") as failed:
        run_stage("promote", request(), round, where=Placement(num_processes=2))
    assert failed.value.may_pass


def test_node_without_the_directory_of_the_campaigns_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm_stand_in.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in {"SLURM_NODEID": "0", "SLURMD_NODENAME": "n1", "SLURM_STEP_NODELIST": "n1,n2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("components.runtime.node.SEEN_SECONDS", 0.0)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main("slurm", tmp_path / "elsewhere" / "message.json", tmp_path / "elsewhere") == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert '"refused"' in capsys.readouterr().out


def test_stage_is_refused_by_name_where_a_node_does_not_see_it(stage: Callable[[str], Path], tmp_path: Path) -> None:
    round = stage("pass")
    (tmp_path / "bin" / "srun").write_text(
        """#!/bin/sh
echo '::node {"index": 1, "name": "n2", "event": "refused", "text": "/runs is not on this node"}'
exit 1
"""
    )
    with pytest.raises(StageFailed, match=r"promote failed: node n2: /runs is not on this node$") as failed:
        run_stage("promote", request(), round, where=Placement(nodes=2, launcher=SLURM))
    assert not failed.value.may_pass


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1", True),
        ("shape '[2, 3]' is invalid for input of size 5", False),
    ],
)
def test_lost_connection_is_told_from_other_errors(message: str, lost: bool) -> None:
    assert is_lost_connection(RuntimeError(message)) is lost


def test_srun_gets_the_nodes_and_what_they_need() -> None:
    launcher = LauncherConfig(kind="slurm", gpus_per_node=8, cpus_per_node=16, options=("--partition=gpu",))
    assert slurm.command(launcher, 2, ["python", "-m", "node"]) == [
        "srun",
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=16",
        "--gpus-per-node=8",
        "--kill-on-bad-exit=1",
        "--job-name=ratchet",
        "--partition=gpu",
        "python",
        "-m",
        "node",
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("slurm", "launcher.kind slurm needs the command srun, which is not on this machine: install Slurm's client"),
        ("ray", r'launcher.kind ray needs Ray: pip install "dpo-ratchet\[ray\]"'),
        ("kubernetes", r'launcher.kind kubernetes needs its client: pip install "dpo-ratchet\[kubernetes\]"'),
    ],
)
def test_launcher_that_is_not_installed_is_refused_before_a_campaign_starts(
    kind: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for package in ("ray", "kubernetes"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=message):
        check_launcher(LauncherConfig.model_validate({"kind": kind}))


def test_jobs_of_kubernetes_are_made_in_a_pod_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.runtime.launchers.kubernetes_job.TOKEN", str(tmp_path))
    launcher = LauncherConfig(kind="kubernetes")
    with pytest.raises(ValueError, match=r"launcher.kind kubernetes: this is not a pod with the token of a service"):
        check_launcher(launcher)
    (tmp_path / "token").write_text("t")
    check_launcher(launcher)


@pytest.mark.parametrize("section", ["generation", "training", "evaluation"])
def test_nodes_need_a_launcher(section: str) -> None:
    with pytest.raises(ValueError, match=f"{section}.nodes is 2, and launcher.kind local starts processes on this"):
        CampaignConfig.model_validate({"campaign": "c", section: {"nodes": 2}})
    config = CampaignConfig.model_validate({"campaign": "c", section: {"nodes": 2}, "launcher": {"kind": "ray"}})
    assert CampaignConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("kind", "key", "value", "reader"),
    [
        ("local", "options", ["-p"], "slurm"),
        ("ray", "options", ["-p"], "slurm"),
        ("kubernetes", "options", ["-p"], "slurm"),
        ("kubernetes", "address", "10.0.0.5:6379", "ray"),
    ],
)
def test_key_that_a_launcher_does_not_read_is_refused(kind: str, key: str, value: Any, reader: str) -> None:
    message = f"{key} does nothing under kind {kind}: leave it out, or set `kind: {reader}`"
    with pytest.raises(ValueError, match=message):
        LauncherConfig.model_validate({"kind": kind, key: value})


@pytest.mark.parametrize("kind", ["slurm", "ray", "kubernetes"])
def test_launchers_of_several_machines_read_what_a_node_needs(kind: str) -> None:
    section = {"kind": kind, "gpus_per_node": 8, "cpus_per_node": 16, "silence_seconds": 300.0}
    launcher = LauncherConfig.model_validate(section)
    assert launcher.model_dump(include=set(section)) == section
    assert LauncherConfig.model_validate(launcher.model_dump(mode="json")) == launcher


def test_message_of_the_nodes_is_touched_while_their_stage_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes end if it is not."""
    monkeypatch.setattr("components.runtime.nodes.SIGN_SECONDS", 0.5)
    message = tmp_path / "message.json"
    message.touch()
    os.utime(message, (0, 0))
    with child_process(["sleep", "100"]) as child, Nodes(2, silence_seconds=60.0).watched(child, message):
        deadline = time.monotonic() + 20
        while message.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
