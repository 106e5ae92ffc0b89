"""Two hosts on one machine: network namespaces on a bridge, each with an address, a host name and a cable of its own.

Needs root and Debian's iproute2. The hosts share the file system, as the nodes of a cluster share theirs.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "ratchet-br"


@dataclass(frozen=True)
class Host:
    """A host of the tests."""

    name: str
    address: str

    @property
    def namespace(self) -> str:
        """Name of its network namespace."""
        return f"ratchet-{self.name}"

    @property
    def cable(self) -> str:
        """The bridge's end of its cable."""
        return f"veth-{self.name}"

    def command(self, *command: str) -> list[str]:
        """Return a command that runs another one on this host."""
        # Not `ip netns exec`, under which /sys/fs/cgroup is gone and slurmd refuses.
        entered = ["nsenter", f"--net=/var/run/netns/{self.namespace}", "unshare", "--uts", "--"]
        return [*entered, "sh", "-c", f'hostname {self.name}; exec "$@"', "sh", *command]

    def processes(self) -> list[int]:
        """Return the ids of the processes that run on this host."""
        own = os.stat(f"/var/run/netns/{self.namespace}").st_ino
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "ns" / "net").stat().st_ino == own:
                    found.append(int(entry.name))
        return found

    def runs(self, program: str) -> bool:
        """Return whether a program of a name runs on this host."""
        for process in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process}/comm").read_text().strip() == program:
                    return True
        return False

    def connect(self) -> None:
        """Plug the cable in."""
        _ip("link", "set", self.cable, "up")

    def disconnect(self) -> None:
        """Pull the cable: nobody is told that connections have ended."""
        _ip("link", "set", self.cable, "down")

    def power_off(self) -> None:
        """End every process of the host at once, without a word to the other one."""
        self.disconnect()
        deadline = time.monotonic() + 20
        while processes := self.processes():
            assert time.monotonic() < deadline, processes
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)


HOSTS = (Host("n1", "10.77.0.1"), Host("n2", "10.77.0.2"))


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make the two hosts, and end everything that runs on them with the block."""
    _remove()
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("link", "set", BRIDGE, "up")
    try:
        for host in HOSTS:
            _ip("netns", "add", host.namespace)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "set", host.cable, "master", BRIDGE, "up")
            inside = ("-n", host.namespace)
            _ip(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip(*inside, "link", "set", "lo", "up")
        yield HOSTS
    finally:
        for host in HOSTS:
            if Path(f"/var/run/netns/{host.namespace}").exists():
                host.power_off()
        _remove()


def _remove() -> None:
    for host in HOSTS:
        # The cable too: a namespace stays until its last process is gone.
        for kind, name in (("link", host.cable), ("netns", host.namespace)):
            subprocess.run(["ip", kind, "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
