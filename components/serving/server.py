"""Run a server for a campaign's model until the caller is done, and report why it exited if it did so by itself."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator

import httpx

from components.records import ServiceFailed
from components.runtime import progress
from components.runtime.children import server_process
from components.serving.door.ratchet_door import KEY_VARIABLE
from components.serving.engines import COMMANDS, Engine, layout
from components.serving.plan import Serving

# If freed memory returns to the system, every tensor faults its pages in again: several times slower on virtual
# machines.
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


@contextlib.contextmanager
def served(serving: Serving, engine: Engine) -> Iterator[Callable[..., None]]:
    """Start the server, wait until it answers, and yield a function that waits until it exits, or for some seconds.

    The end of the block ends the server.

    Raises:
        ServiceFailed: The server exited by itself, at its start or later.
    """
    command, environment = COMMANDS[engine](serving)
    offline = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    environment = {**os.environ, **KEEP_FREED_MEMORY, **offline, KEY_VARIABLE: serving.key, **environment}
    with (
        serving.log.open("w") as log,
        # A relative model name is looked up in the current directory first, so that directory must contain no models.
        server_process(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=layout(serving)) as child,
    ):
        _wait_until_healthy(serving, child)

        def until_it_ends(seconds: float | None = None) -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
                raise _failure(serving)

        yield until_it_ends


def _wait_until_healthy(serving: Serving, child: subprocess.Popen[str]) -> None:
    """Wait while the server lives, without a limit: the time to load a model depends on its size and the disk."""
    while child.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(serving.health, timeout=5, trust_env=False).is_success:
                return
        progress.report(0, 1, "the server is starting")
        time.sleep(0.2)
    raise _failure(serving)


def _failure(serving: Serving) -> ServiceFailed:
    lines = [line.strip() for line in serving.log.read_text(errors="replace").splitlines() if line.strip()]
    error = f": {lines[-1]}" if lines else " without an error message"
    return ServiceFailed(f"the server exited{error} (its output: {serving.log})")
