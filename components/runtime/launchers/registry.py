"""The launchers that start a stage's nodes, by the `kind` of the launcher section."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from components.config import LauncherConfig
from components.runtime.launchers import kubernetes_job, ray_cluster, slurm
from components.runtime.launchers.place import Place


class Launcher(NamedTuple):
    """A launcher: a command that runs another one on each node, forwards its lines, and ends it with itself."""

    command: Callable[[LauncherConfig, int, list[str]], list[str]]
    """Return that command; takes the launcher section, the number of nodes, and the command of a node."""
    place: Callable[[], Place]
    """Return the place of the node that calls it, within the command of a node."""


LAUNCHERS = {
    "slurm": Launcher(slurm.command, slurm.place),
    "ray": Launcher(ray_cluster.command, ray_cluster.place),
    "kubernetes": Launcher(kubernetes_job.command, kubernetes_job.place),
}
"""`local` is not among them: `components.runtime.launch` starts the ranks of this machine itself."""


def check_launcher(launcher: LauncherConfig) -> None:
    """Check that this machine can use a launcher.

    Raises:
        ValueError: It cannot; one line with the remedy.
    """
    if launcher.kind == "slurm" and shutil.which("srun") is None:
        raise ValueError(
            "launcher.kind slurm needs the command srun, which is not on this machine: install Slurm's client, or set "
            "`launcher: {kind: local}`"
        )
    if launcher.kind == "ray" and not _is_installed("ray"):
        raise ValueError('launcher.kind ray needs Ray: pip install "dpo-ratchet[ray]"')
    if launcher.kind == "kubernetes" and not _is_installed("kubernetes"):
        raise ValueError('launcher.kind kubernetes needs its client: pip install "dpo-ratchet[kubernetes]"')
    if launcher.kind == "kubernetes" and not Path(kubernetes_job.TOKEN, "token").is_file():
        raise ValueError(
            "launcher.kind kubernetes: this is not a pod with the token of a service account, so it may not make Jobs: "
            "start the campaign in one that has it (docs/kubernetes.md)"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:
        return False
