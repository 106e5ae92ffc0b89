"""Run a stage in this process, or in child processes under torchrun.

Knows stages by their doors only and loads no ML library.

A stage runs once per key; a later call with the same key verifies the published files and returns their manifest.
Children end with their parent, however it ends, and their output reaches the log line by line.
"""

import contextlib
import ctypes
import importlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.artifacts import (
    Workspace,
    digest,
    inherit_mode,
    peak_memory,
    publishing,
    read_json,
    verified,
    write_json,
)
from components.records import (
    CollectRequest,
    DataRejected,
    EvaluateRequest,
    GenerateRequest,
    JudgeUnavailable,
    Manifest,
    ModelRefused,
    PromoteRequest,
    Record,
    RewardModelRequest,
    RoundStopped,
    StageFailed,
    StartRequest,
    TrainRequest,
    ValidateRequest,
)
from components.runtime import progress
from components.runtime.children import AGENT, child_process, output_lines, output_pipes
from components.runtime.full_disk import explained

log = logging.getLogger(__name__)

PROGRESS_MARK = "::progress "
RELAY_SECONDS = 0.5


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
    "collect_preferences": Stage("components.preferences.stage", CollectRequest, 3, on_accelerator=True),
    "validate_data": Stage("components.validation.stage", ValidateRequest, 2),
    "dpo_train": Stage("components.dpo.stage", TrainRequest, 5, on_accelerator=True),
    "evaluate": Stage("components.evaluation.stage", EvaluateRequest, 3, on_accelerator=True),
    "promote": Stage("components.promotion.stage", PromoteRequest, 1),
    "reward_model": Stage("components.reward_model.stage", RewardModelRequest, 1, on_accelerator=True),
}
PASSING = (ConnectionError, TimeoutError)
"""Errors that may not occur again in a retry."""
KEPT = {DataRejected: "rejected rows are", JudgeUnavailable: "verdicts are", ModelRefused: "model is"}
"""Errors after which the stage's output is kept, and that output in the message."""
DOMAIN_ERRORS = {error.__name__: error for error in (*KEPT, RoundStopped)}


def stage_key(name: str, request: Record) -> str:
    """Return the key under which a stage's result for a request is published."""
    return digest({"stage": name, "version": STAGES[name].version, "request": request})


def run_stage(name: str, request: Record, directory: Path, *, num_processes: int = 1, anew: bool = False) -> Manifest:
    """Publish a stage's result in `directory / name`, unless an intact one with the same key is already there.

    Args:
        name: Key of `STAGES`.
        request: Everything that the result depends on; its digest with the stage's version is the manifest's key.
        directory: The round's directory.
        num_processes: Number of ranks; 0 means one per visible GPU.
        anew: Whether to replace an intact result: what it was made from has changed, but not the key.

    Raises:
        DataRejected: The round's data broke a gate; the stage's output is kept beside it in `rejected-<name>`.
        JudgeUnavailable: The judge gave no usable verdicts; its verdicts are kept in the same way.
        ModelRefused: The trained model did not reach the measure that it needs; it is kept in the same way.
        RoundStopped: The stop file or the round's budget ended the stage.
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
    gpus = visible_gpus()
    ranks = num_processes or max(1, gpus)
    apart = ranks > 1 or (stage.on_accelerator and gpus > 0)
    with (
        publishing(target, stage=name, version=stage.version, key=key) as workspace,
        _kept_if_rejected(workspace, directory, name),
    ):
        if apart:
            _run_in_children(name, request, workspace, ranks)
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
    _prepare_process()
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
    _prepare_process()
    try:
        importlib.import_module(STAGES[name].module).run(request, workspace.path)
    except tuple(DOMAIN_ERRORS.values()):
        raise
    except Exception as error:
        raise StageFailed(
            f"{name} failed: {type(error).__name__}: {explained(error, workspace.path)}",
            may_pass=isinstance(error, PASSING),
        ) from error


def _run_in_children(name: str, request: Record, workspace: Workspace, ranks: int) -> None:
    message = workspace.path / ".request.json"
    write_json(message, {"stage": name, "module": STAGES[name].module, "request": request.model_dump(mode="json")})
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    tail: list[str] = []
    with (
        output_pipes(ranks) as pipes,
        child_process(
            [*agent, "-m", "components.runtime.launch", str(message), str(workspace.path), *pipes], env=_own_code()
        ) as child,
    ):
        for line in output_lines(child, pipes):
            _forward(line.rstrip("\n"), tail)
        code = child.wait()
    message.unlink()
    failure, peaks = workspace.path / ".failure.json", sorted(workspace.path.glob(".peak-*.json"))
    if failure.exists():
        error = read_json(failure)
        failure.unlink()
        if error["type"] in DOMAIN_ERRORS:
            raise DOMAIN_ERRORS[error["type"]](error["message"])
        raise StageFailed(f"{name} failed: {error['type']}: {error['message']}", may_pass=error["may_pass"])
    if code != 0:
        # No process wrote down its error, so something outside ended one: lack of memory, a device, a user.
        ended = f"{name} failed: its processes exited with code {code}; last lines: {' | '.join(tail[-5:])}"
        raise StageFailed(ended, may_pass=True)
    workspace.peak_memory_bytes = sum(read_json(path)["bytes"] for path in peaks)
    for path in peaks:
        path.unlink()


def _own_code() -> dict[str, str]:
    """Return an environment whose Python runs this code, even if the current directory has packages of its names."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}


def _forward(line: str, tail: list[str]) -> None:
    if line.startswith(PROGRESS_MARK):
        progress.report(**json.loads(line.removeprefix(PROGRESS_MARK)))
        return
    log.info("%s", line)
    tail.append(line)
    del tail[:-20]


def visible_gpus() -> int:
    """Return the number of GPUs that this process may use, without loading torch."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return len([name for name in allowed.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])


def _prepare_process() -> None:
    keep_freed_memory()
    if not visible_gpus():
        # Other libraries import DeepSpeed on their own, and it then warns on the terminal that it found no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory.

    If glibc returns it to the system, every tensor faults its pages in again, which is several times slower on VMs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((-1, 2**31 - 1), (-3, 2**31 - 1), (-2, 2**28)):
            mallopt(parameter, value)


class _Relay:
    """Print this rank's progress as marked lines, which the parent turns back into progress."""

    def __init__(self) -> None:
        self.last = 0.0

    def began(self, round: str, stage: str) -> None:
        """Do nothing: the parent reports the beginning."""

    def advanced(self, done: int, total: int, text: str) -> None:
        if time.monotonic() - self.last > RELAY_SECONDS or done == total:
            self.last = time.monotonic()
            sys.stdout.write(f"{PROGRESS_MARK}{json.dumps({'done': done, 'total': total, 'text': text})}\n")
            sys.stdout.flush()

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Do nothing: the parent reports the end."""


def _child_main(message: Path, out: Path, pipes: list[str]) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(os.environ[AGENT]):
        sys.exit(1)  # the agent was killed before the line above; opening the pipe would wait for ever
    output = os.open(pipes[int(os.environ["RANK"])], os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    rank = int(os.environ["RANK"])
    _prepare_process()
    content = read_json(message)
    request = STAGES[content["stage"]].request.model_validate(content["request"])
    try:
        with progress.reporting_to(_Relay()) if rank == 0 else contextlib.nullcontext():
            importlib.import_module(content["module"]).run(request, out)
    except Exception as error:
        # The first rank to fail is the cause: it writes its error before its connections break, which makes the other
        # ranks fail.
        if not (out / ".failure.json").exists():
            told, may_pass = explained(error, out), isinstance(error, PASSING)
            failure = {"type": type(error).__name__, "message": told, "may_pass": may_pass}
            write_json(out / ".failure.json", failure)
        raise
    write_json(out / f".peak-{rank}.json", {"bytes": peak_memory()})


if __name__ == "__main__":
    _child_main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
