"""Stands in for Slurm's `srun` and `scontrol`: nodes n1, n2, ... are processes of this machine.

`tests/nodes` has the real ones, on machines of their own.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

KILL_SECONDS = 5.0
"""As `KillWait` of slurm.conf."""
HOSTS = ("127.0.0.1", "127.0.0.2")


def install(directory: Path) -> None:
    """Write commands `srun` and `scontrol` into a directory for PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("srun", "scontrol"):
        command = directory / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        command.chmod(0o755)


def srun(arguments: list[str]) -> int:
    """Run a command once per node; end all when one fails, as --kill-on-bad-exit does, or when told to."""
    nodes = next(int(item.removeprefix("--nodes=")) for item in arguments if item.startswith("--nodes="))
    while arguments[0].startswith("--"):
        arguments = arguments[1:]
    names = [f"n{index + 1}" for index in range(nodes)]
    children = []
    for index, name in enumerate(names):
        own = {"SLURM_NODEID": str(index), "SLURMD_NODENAME": name, "SLURM_STEP_NODELIST": ",".join(names)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        children.append(subprocess.Popen(arguments, env=os.environ | own, text=True, **pipes))

    def end(*_: object) -> None:
        for child in children:
            child.terminate()
            threading.Timer(KILL_SECONDS, child.kill).start()

    def follow(child: "subprocess.Popen[str]") -> None:
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
        if child.wait() != 0:
            end()

    signal.signal(signal.SIGTERM, end)
    followers = [threading.Thread(target=follow, args=(child,)) for child in children]
    for follower in followers:
        follower.start()
    for follower in followers:
        follower.join()
    return max(abs(child.returncode) for child in children)


def scontrol(arguments: list[str]) -> int:
    """Answer `show hostnames LIST` and `show node --oneliner NAME`."""
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(arguments[2].split(",")))
    else:
        address = HOSTS[int(arguments[-1].removeprefix("n")) - 1]
        print(f"NodeName={arguments[-1]} Arch=x86_64 NodeAddr={address} NodeHostName={arguments[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
