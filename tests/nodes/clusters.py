"""A real Slurm and a real Ray on the two hosts of `tests.nodes.hosts`.

Slurm needs Debian's packages slurmctld, slurmd, slurm-client and munge; Ray the extra `ray`.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.nodes.hosts import Host

SLURM_CONF = """
ClusterName=ratchet
SlurmctldHost={first.name}({first.address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CryptoType=crypto/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=30
KillWait=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


class Cluster(Protocol):
    """A cluster on two hosts."""

    launcher: dict[str, object]
    """The launcher section for it."""
    environment: dict[str, str]
    """Variables with which a campaign finds it."""

    daemons: list["subprocess.Popen[bytes]"]
    """Daemons that the tests have to wait for when their hosts are off."""

    def start(self, host: Host) -> None:
        """Start the cluster's daemon of a host, and wait until it takes work."""

    def tend(self, host: Host) -> None:
        """Do what the cluster's service manager does if the daemon of a host has given up."""


class Slurm:
    """slurmctld and a slurmd on the first host, a slurmd on the second, and munge."""

    def __init__(self, place: Path, hosts: tuple[Host, Host]) -> None:
        self.place, self.hosts, self.daemons = place, hosts, list[subprocess.Popen[bytes]]()
        self.launcher: dict[str, object] = {"kind": "slurm", "silence_seconds": 45}
        self.environment = {"SLURM_CONF": str(place / "slurm.conf")}
        nodes = "\n".join(
            f"NodeName={host.name} NodeAddr={host.address} NodeHostname={host.name} CPUs=1" for host in hosts
        )
        (place / "slurm.conf").write_text(SLURM_CONF.format(first=hosts[0], place=place, nodes=nodes))
        (place / "cgroup.conf").write_text("CgroupPlugin=autodetect\nIgnoreSystemd=yes\n")
        (place / "state").mkdir()
        self._munge()
        self._daemon(hosts[0], "slurmctld", "-D", "-i")
        for host in hosts:
            self.start(host)

    def start(self, host: Host) -> None:
        self._daemon(host, "slurmd", "-D", "-N", host.name)
        until(lambda: self._state(host) in ("idle", "mixed", "allocated"), f"slurmd of {host.name}")

    def tend(self, host: Host) -> None:
        """Do nothing: slurmd does not give up."""

    def _state(self, host: Host) -> str:
        asked = ["sinfo", "--noheader", "--nodes", host.name, "--format=%T"]
        shown = subprocess.run(
            self.hosts[0].command(*asked),
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return shown.stdout.strip()

    def _munge(self) -> None:
        directory = self.place / "munge"
        directory.mkdir()
        (directory / "key").write_bytes(secrets.token_bytes(128))
        (directory / "key").chmod(0o400)
        shutil.chown(directory, "munge", "munge")
        shutil.chown(directory / "key", "munge", "munge")
        directory.chmod(0o711)
        files = [f"--{name}-file={directory / name}" for name in ("key", "pid", "seed", "log")]
        munged = ["munged", "--foreground", "--force", f"--socket={directory / 'socket'}", *files]
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        self._daemon(self.hosts[0], *as_munge, *munged)
        until((directory / "socket").exists, "munged")

    def _daemon(self, host: Host, *command: str) -> None:
        with (self.place / f"{command[0]}-{host.name}.out").open("ab") as out:
            daemon = subprocess.Popen(host.command(*command), env=os.environ | self.environment, stdout=out, stderr=out)
        self.daemons.append(daemon)


class Ray:
    """A head on the first host, and a worker on the second."""

    def __init__(self, place: Path, hosts: tuple[Host, Host]) -> None:
        self.place, self.hosts, self.daemons = place, hosts, list[subprocess.Popen[bytes]]()
        address = f"{hosts[0].address}:6379"
        self.launcher: dict[str, object] = {"kind": "ray", "address": address, "silence_seconds": 45}
        self.environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(place)}
        for host in hosts:
            self.start(host)

    def start(self, host: Host) -> None:
        head = self.hosts[0]
        role = (
            ["--head", "--port=6379", "--include-dashboard=false"]
            if host == head
            else [f"--address={head.address}:6379"]
        )
        ray = [str(Path(sys.executable).with_name("ray")), "start", *role, "--num-cpus=1", "--disable-usage-stats"]
        places = ["--temp-dir", str(self.place / host.name)] if host == head else []
        started = [*ray, f"--node-ip-address={host.address}", *places]
        subprocess.run(
            host.command(*started), env=os.environ | self.environment, check=True, capture_output=True, timeout=120
        )

    def tend(self, host: Host) -> None:
        """Start a raylet again that ended when it heard that the head had taken it for dead."""
        deadline = time.monotonic() + 45
        while host.runs("raylet"):
            if time.monotonic() > deadline:
                return
            time.sleep(0.5)
        self.start(host)


CLUSTERS: dict[str, Callable[[Path, tuple[Host, Host]], Cluster]] = {"slurm": Slurm, "ray": Ray}


def until(holds: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: It does not in time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)
