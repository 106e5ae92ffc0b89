"""Slurm as a launcher: one task of `srun` per node, within an allocation or by one of its own.

`srun` waits for the nodes, forwards their output and ends the job step when it is ended, which `sbatch --wait` does
not.
"""

import os
import re
import subprocess

from components.config import LauncherConfig
from components.runtime.launchers.place import Place


def command(launcher: LauncherConfig, nodes: int, on_each_node: list[str]) -> list[str]:
    """Return the command that runs another one once on each of several nodes.

    Args:
        launcher: The launcher section.
        nodes: Number of nodes.
        on_each_node: The command of a node.
    """
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={launcher.cpus_per_node}",
        *([f"--gpus-per-node={launcher.gpus_per_node}"] if launcher.gpus_per_node else []),
        "--kill-on-bad-exit=1",
        "--job-name=ratchet",
        *launcher.options,
        *on_each_node,
    ]


def place() -> Place:
    """Return this task's place in its job step.

    Raises:
        RuntimeError: Slurm does not know the address of the first node.
    """
    names = _scontrol("show", "hostnames", os.environ["SLURM_STEP_NODELIST"]).split()
    told = _scontrol("show", "node", "--oneliner", names[0])
    address = re.search(r"\bNodeAddr=(\S+)", told)
    if address is None:
        raise RuntimeError(f"scontrol does not say the address of node {names[0]}")
    return Place(int(os.environ["SLURM_NODEID"]), os.environ["SLURMD_NODENAME"], address[1])


def _scontrol(*arguments: str) -> str:
    return subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True).stdout
