"""Run a stage in this process, or in child processes under torchrun, on this machine or on several.

Knows stages by their doors only and loads no ML library.

A stage runs once per key; a later call with the same key verifies the published files and returns their manifest.
Children end with their parent, however it ends, and their output reaches the log line by line.
"""

import contextlib
import importlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.artifacts import (
    Workspace,
    digest,
    inherit_mode,
    publishing,
    read_json,
    verified,
    write_json,
)
from components.config import LauncherConfig
from components.records import (
    BestOfNRequest,
    CollectRequest,
    DataRejected,
    EvaluateRequest,
    GenerateRequest,
    InferRewardRequest,
    JudgeUnavailable,
    Manifest,
    ModelRefused,
    PromoteRequest,
    Record,
    RewardModelRequest,
    RoundStopped,
    RoundWaits,
    SftRequest,
    StageFailed,
    StartRequest,
    TakeFeedbackRequest,
    TrainRequest,
    ValidateRequest,
)
from components.runtime import progress
from components.runtime.children import child_process, output_lines
from components.runtime.full_disk import explained
from components.runtime.launchers.registry import LAUNCHERS
from components.runtime.machine import prepare_process, ranks_of_machine, visible_gpus
from components.runtime.node import own_code, ranks_of_node
from components.runtime.nodes import NODE_MARK, Nodes
from components.runtime.progress import PROGRESS_MARK

log = logging.getLogger(__name__)

FAILURE = ".failure.json"
"""File of a stage's output in which the first rank that fails writes its error."""
ALONE = ("--standalone", "--local-addr=127.0.0.1")
"""torchrun's arguments on one machine. Without an address its ranks look for the machine by its name, and wait for ever
if the name cannot be resolved."""
MEETING_PORTS = range(20_000, 32_000)
"""Ports at which nodes may meet: below those that systems give to outgoing connections."""


@dataclass(frozen=True)
class Stage:
    """A stage's door: the module with `run(request, out)`, the type of its request, and the version of its output."""

    module: str
    request: type[Record]
    version: int
    on_accelerator: bool = False
    """Whether it runs in child processes if there is an accelerator, so that its memory is freed afterwards."""


STAGES = {
    "start": Stage("components.start.stage", StartRequest, 1, on_accelerator=True),
    "generate_responses": Stage("components.generation.stage", GenerateRequest, 2, on_accelerator=True),
    "take_feedback": Stage("components.feedback.stage", TakeFeedbackRequest, 1),
    "collect_preferences": Stage("components.preferences.stage", CollectRequest, 3, on_accelerator=True),
    "validate_data": Stage("components.validation.stage", ValidateRequest, 2),
    "dpo_train": Stage("components.dpo.stage", TrainRequest, 5, on_accelerator=True),
    "evaluate": Stage("components.evaluation.stage", EvaluateRequest, 3, on_accelerator=True),
    "best_of_n": Stage("components.best_of_n.stage", BestOfNRequest, 1, on_accelerator=True),
    "promote": Stage("components.promotion.stage", PromoteRequest, 1),
    "reward_model": Stage("components.reward_model.stage", RewardModelRequest, 1, on_accelerator=True),
    "sft": Stage("components.sft.stage", SftRequest, 1, on_accelerator=True),
    "inferred_reward": Stage("components.inferred_reward.stage", InferRewardRequest, 1, on_accelerator=True),
}
PASSING = (ConnectionError, TimeoutError)
"""Errors that may not occur again in a retry."""
KEPT = {DataRejected: "rejected rows are", JudgeUnavailable: "verdicts are", ModelRefused: "model is"}
"""Errors after which the stage's output is kept, and that output in the message."""
DOMAIN_ERRORS = {error.__name__: error for error in (*KEPT, RoundStopped, RoundWaits)}


THIS_MACHINE = LauncherConfig()


@dataclass(frozen=True)
class Placement:
    """Where the ranks of a stage run."""

    num_processes: int = 1
    """Ranks on each node; 0 means one per `gpus_per_rank` visible GPUs."""
    gpus_per_rank: int = 1
    """GPUs that each rank uses, if there are any."""
    nodes: int = 1
    launcher: LauncherConfig = THIS_MACHINE


HERE = Placement()


def stage_key(name: str, request: Record) -> str:
    """Return the key under which a stage's result for a request is published."""
    return digest({"stage": name, "version": STAGES[name].version, "request": request})


def run_stage(
    name: str,
    request: Record,
    directory: Path,
    *,
    where: Placement = HERE,
    anew: bool = False,
) -> Manifest:
    """Publish a stage's result in `directory / name`, unless an intact one with the same key is already there.

    Args:
        name: Key of `STAGES`.
        request: Everything that the result depends on; its digest with the stage's version is the manifest's key.
        directory: The round's directory.
        where: Where its ranks run.
        anew: Whether to replace an intact result: what it was made from has changed, but not the key.

    Raises:
        DataRejected: The round's data broke a gate; the stage's output is kept beside it in `rejected-<name>`.
        JudgeUnavailable: The judge gave no usable verdicts; its verdicts are kept in the same way.
        ModelRefused: The trained model did not reach the measure that it needs; it is kept in the same way.
        RoundStopped: The stop file or the round's budget ended the stage.
        RoundWaits: The stage needs votes that people have not given yet.
        StageFailed: Anything else went wrong; the message names the stage and the cause.
        NewerVersion: A newer version of Ratchet published the stage.
    """
    stage = STAGES[name]
    key = stage_key(name, request)
    target = directory / name
    published = verified(target, key, version=stage.version)
    if published is not None and not anew:
        log.info("%s: already done", target)
        progress.ended(directory.name, name, published.seconds, already_done=True)
        return published
    progress.began(directory.name, name)
    ranks = ranks_of_machine(where.num_processes, where.gpus_per_rank)
    apart = where.launcher.kind != "local" or ranks > 1 or (stage.on_accelerator and visible_gpus() > 0)
    with (
        publishing(target, stage=name, version=stage.version, key=key) as workspace,
        _kept_if_rejected(workspace, directory, name),
    ):
        if apart:
            _run_in_children(name, request, workspace, where)
        else:
            _run_here(name, request, workspace)
    manifest = verified(target, key)
    assert manifest is not None, target
    progress.ended(directory.name, name, manifest.seconds, already_done=False)
    return manifest


def load_stages() -> None:
    """Import the modules of all stages that run in this process: torch and transformers take seconds to load.

    Stages that run in child processes, because there is a GPU, are left out.
    """
    prepare_process()
    for stage in STAGES.values():
        if not (stage.on_accelerator and visible_gpus()):
            importlib.import_module(stage.module)


@contextlib.contextmanager
def _kept_if_rejected(workspace: Workspace, directory: Path, name: str) -> Iterator[None]:
    try:
        yield
    except tuple(KEPT) as error:
        written = [file for file in workspace.path.iterdir() if not file.name.startswith(".")]
        if not written:
            raise
        kept = directory / f"rejected-{name}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for file in written:
            os.replace(file, kept / file.name)
        inherit_mode(kept)
        raise type(error)(f"{error}; the {KEPT[type(error)]} in {kept}") from None


def _run_here(name: str, request: Record, workspace: Workspace) -> None:
    prepare_process()
    try:
        importlib.import_module(STAGES[name].module).run(request, workspace.path)
    except tuple(DOMAIN_ERRORS.values()):
        raise
    except Exception as error:
        raise StageFailed(
            f"{name} failed: {type(error).__name__}: {explained(error, workspace.path)}",
            may_pass=isinstance(error, PASSING),
        ) from error


def _run_in_children(name: str, request: Record, workspace: Workspace, where: Placement) -> None:
    message = workspace.path / ".request.json"
    stage = {"stage": name, "module": STAGES[name].module, "request": request.model_dump(mode="json")}
    write_json(message, stage | _meeting(where))
    tail: list[str] = []
    nodes = Nodes(where.nodes, silence_seconds=where.launcher.silence_seconds)
    with _started(message, workspace.path, where) as (child, lines), nodes.watched(child, message):
        for line in lines:
            _forward(line.rstrip("\n"), nodes, tail)
        code = child.wait()
    message.unlink()
    _raise_failure(name, workspace.path, code, nodes, tail)
    peaks = sorted(workspace.path.glob(".peak-*.json"))
    workspace.peak_memory_bytes = sum(read_json(path)["bytes"] for path in peaks)
    for path in peaks:
        path.unlink()


def _meeting(where: Placement) -> dict[str, Any]:
    """Return what the nodes need to know to meet; several stages may run on the same nodes."""
    return {
        "nodes": where.nodes,
        "num_processes": where.num_processes,
        "gpus_per_rank": where.gpus_per_rank,
        "silence_seconds": where.launcher.silence_seconds,
        "id": secrets.token_hex(8),
        "port": secrets.choice(MEETING_PORTS),
    }


@contextlib.contextmanager
def _started(message: Path, out: Path, where: Placement) -> Iterator[tuple["subprocess.Popen[str]", Iterator[str]]]:
    """Start the ranks on this machine, or a launcher's command that starts them on the nodes."""
    if where.launcher.kind == "local":
        ranks = ranks_of_machine(where.num_processes, where.gpus_per_rank)
        with ranks_of_node(message, out, ranks=ranks, rendezvous=ALONE) as started:
            yield started
        return
    on_each_node = [sys.executable, "-m", "components.runtime.node", where.launcher.kind, str(message), str(out)]
    command = LAUNCHERS[where.launcher.kind].command(where.launcher, where.nodes, on_each_node)
    # SIGTERM: a launcher ends what it started elsewhere, and could not if it were killed.
    with child_process(command, death_signal=signal.SIGTERM, env=own_code()) as child:
        yield child, output_lines(child, [])


def _raise_failure(name: str, out: Path, code: int, nodes: Nodes, tail: Sequence[str]) -> None:
    """Raise the error of the first rank that failed, or say what ended the ranks from outside.

    Raises:
        StageFailed: A rank failed, or its process or its node was lost.
    """
    failure = out / FAILURE
    if failure.exists():
        error = read_json(failure)
        failure.unlink()
        if error["type"] in DOMAIN_ERRORS:
            raise DOMAIN_ERRORS[error["type"]](error["message"])
        raise StageFailed(f"{name} failed: {error['type']}: {error['message']}", may_pass=error["may_pass"])
    if nodes.refusal:
        raise StageFailed(f"{name} failed: {nodes.refusal}", may_pass=False)
    if code != 0:
        # No process wrote down its error, so something outside ended one: lack of memory, a device, a user, a machine.
        cause = f"its processes exited with code {code}"
        if lost := nodes.lost():
            cause = f"lost node {', '.join(lost)}"
        log.warning("%s failed: %s", name, cause)  # the error itself is shown only if no further try succeeds
        raise StageFailed(f"{name} failed: {cause}; last lines: {' | '.join(tail[-5:])}", may_pass=True)


def _forward(line: str, nodes: Nodes, tail: list[str]) -> None:
    if line.startswith(PROGRESS_MARK):
        progress.report(**json.loads(line.removeprefix(PROGRESS_MARK)))
        return
    if line.startswith(NODE_MARK):
        nodes.hear(line.removeprefix(NODE_MARK))
        return
    log.info("%s", line)
    tail.append(line)
    del tail[:-20]
