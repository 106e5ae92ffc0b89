"""One node of a stage: starts torchrun for the ranks of this machine.

The machine may be the only one. Among several, a launcher runs this module on each, they meet by torchrun's c10d
rendezvous, and a node tells by marked lines of its output when it begins, that it is alive, and when it ends.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from components.artifacts import read_json
from components.runtime.children import child_process, output_lines, output_pipes
from components.runtime.launchers.place import Place
from components.runtime.launchers.registry import LAUNCHERS
from components.runtime.machine import ranks_of_machine
from components.runtime.nodes import SIGN_SECONDS, marked_line
from components.runtime.progress import PROGRESS_MARK
from components.runtime.ticking import every

SEEN_SECONDS = 30.0
"""Seconds that a file of another machine may take to appear on a shared file system."""
MEETING_SECONDS = 600
"""Seconds that a node waits for the others."""


@contextlib.contextmanager
def ranks_of_node(
    message: Path, out: Path, *, ranks: int, rendezvous: Sequence[str]
) -> Iterator[tuple["subprocess.Popen[str]", Iterator[str]]]:
    """Start torchrun for this machine's ranks, and end them at the end of the block.

    Args:
        message: JSON file with the stage and its request.
        out: Directory of the stage's output.
        ranks: Number of ranks on this machine.
        rendezvous: torchrun's arguments that say how nodes meet.

    Yields:
        The process of torchrun, and the lines that it and its ranks print.
    """
    agent = [sys.executable, "-m", "torch.distributed.run", *rendezvous, f"--nproc-per-node={ranks}"]
    with (
        output_pipes(ranks) as pipes,
        child_process(
            [*agent, "-m", "components.runtime.rank", str(message), str(out), *pipes], env=own_code()
        ) as child,
    ):
        yield child, output_lines(child, pipes)


def own_code() -> dict[str, str]:
    """Return an environment whose Python runs this code, even if the current directory has packages of its names."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}


def main(kind: str, message: Path, out: Path) -> int:
    """Run this node's ranks as one of several nodes, and print what they print.

    Args:
        kind: The launcher that started this process.
        message: JSON file with the stage, its request, and how the nodes meet.
        out: Directory of the stage's output.

    Returns:
        The exit code of torchrun.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    place = LAUNCHERS[kind].place()
    voice = _Voice(place)
    if not _appears(message):
        voice.say("refused", f"{message.parent} is not on this node: RATCHET_RUNS must be a directory of every node")
        return 1
    voice.say("began")
    content = read_json(message)
    own_address = _address_towards(place.head)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        # Without it gloo takes the address of the host's name, which is often that of the loopback.
        if interface := _interface(own_address):
            os.environ.setdefault(variable, interface)
    rendezvous = [
        f"--nnodes={content['nodes']}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={content['id']}",
        f"--rdzv-endpoint={place.head}:{content['port']}",
        # torchrun would guess whether it is the host by the name of the machine, and a wrong guess makes it a world of
        # its own.
        f"--rdzv-conf=is_host={int(place.index == 0)},join_timeout={MEETING_SECONDS},"
        f"read_timeout={content['silence_seconds']:.0f}",
        f"--local-addr={own_address}",
    ]
    ranks = ranks_of_machine(content["num_processes"], content["gpus_per_rank"])
    code = 1
    try:
        with (
            every(SIGN_SECONDS, lambda: voice.say("alive")),
            _ended_with_its_stage(message, content["silence_seconds"]),
            ranks_of_node(message, out, ranks=ranks, rendezvous=rendezvous) as (child, lines),
        ):
            for line in lines:
                voice.forward(line.rstrip("\n"))
            code = child.wait()
    finally:
        voice.say("ended", str(code))
    return code


@contextlib.contextmanager
def _ended_with_its_stage(message: Path, seconds: float) -> Iterator[None]:
    """End this node when its message is not touched any more: where nothing ends it, it would go on for nobody.

    A cluster keeps a job whose starter was killed together with its machine.
    """
    before, since = _touched(message), time.monotonic()

    def look() -> bool:
        nonlocal before, since
        now = _touched(message)
        if now not in (None, before):
            before, since = now, time.monotonic()
        if abandoned := time.monotonic() - since > seconds:
            os.kill(os.getpid(), signal.SIGTERM)
        return abandoned

    with every(SIGN_SECONDS, look):
        yield


def _touched(message: Path) -> int | None:
    """Return when a file was touched; None if it is gone. Opened, since network file systems then look anew."""
    try:
        with message.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


class _Voice:
    """Print whole lines of several threads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()

    def say(self, event: str, text: str = "") -> None:
        """Print a marked line, which the parent reads."""
        self._print(marked_line(event, self._place.name, index=self._place.index, text=text))

    def forward(self, line: str) -> None:
        """Print a rank's line under the node's name; a marked line stays as it is."""
        self._print(line if line.startswith(PROGRESS_MARK) else f"[{self._place.name}] {line}")

    def _print(self, line: str) -> None:
        with self._lock:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _address_towards(host: str) -> str:
    """Return the address under which this machine sends to another one, or to itself."""
    family, _, _, _, address = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as nothing_sent:
        nothing_sent.connect(address)
        own: Any = nothing_sent.getsockname()
    return str(own[0])


def _interface(address: str) -> str | None:
    """Return the network interface that has an address."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(own.address == address for own in addresses):
            return name
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
