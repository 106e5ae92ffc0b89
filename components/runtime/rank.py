"""One rank of a stage: the process that torchrun starts."""

import contextlib
import ctypes
import importlib
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path

from components.artifacts import peak_memory, read_json, write_json
from components.runtime import progress
from components.runtime.children import AGENT
from components.runtime.full_disk import explained
from components.runtime.launch import FAILURE, PASSING, STAGES
from components.runtime.machine import prepare_process
from components.runtime.progress import PROGRESS_MARK

RELAY_SECONDS = 0.5
LOST_CONNECTION = re.compile(r"gloo/transport|Connection (closed|reset) by peer|Broken pipe|NCCL (remote|system) error")
"""Errors of collectives that are raised as RuntimeError."""


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


def main(message: Path, out: Path, pipes: list[str]) -> None:
    """Run a stage as one of its ranks.

    Args:
        message: JSON file with the stage and its request.
        out: Directory of the stage's output.
        pipes: Named pipes of this node's ranks, which take what they print.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(os.environ[AGENT]):
        sys.exit(1)  # the agent was killed before the line above; opening the pipe would wait for ever
    output = os.open(pipes[int(os.environ["LOCAL_RANK"])], os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    rank = int(os.environ["RANK"])
    prepare_process()
    content = read_json(message)
    request = STAGES[content["stage"]].request.model_validate(content["request"])
    try:
        with progress.reporting_to(_Relay()) if rank == 0 else contextlib.nullcontext():
            importlib.import_module(content["module"]).run(request, out)
    except Exception as error:
        # The first rank to fail is the cause: it writes its error before its connections break, which makes the other
        # ranks fail. A rank that was killed wrote none, so a broken connection is never taken for the cause.
        if not is_lost_connection(error) and not (out / FAILURE).exists():
            told, may_pass = explained(error, out), isinstance(error, PASSING)
            failure = {"type": type(error).__name__, "message": told, "may_pass": may_pass}
            write_json(out / FAILURE, failure)
        raise
    write_json(out / f".peak-{rank}.json", {"bytes": peak_memory()})


def is_lost_connection(error: BaseException) -> bool:
    """Return whether a collective failed because another rank has gone, or cannot be reached."""
    # By name: whoever fails before it needs torch has not loaded it.
    of_torch = any(kind.__name__ == "DistError" for kind in type(error).__mro__)
    return of_torch or (type(error) is RuntimeError and LOST_CONNECTION.search(str(error)) is not None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
