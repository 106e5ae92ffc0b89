"""This machine's accelerators and memory, for a process that may not have loaded torch."""

import ctypes
import os
import re
from pathlib import Path


def visible_gpus() -> int:
    """Return the number of GPUs that this process may use, without loading torch."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return len([name for name in allowed.split(",") if name.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])


def ranks_of_machine(num_processes: int, gpus_per_rank: int) -> int:
    """Return the number of ranks of this machine; with `num_processes` 0, as many as its GPUs are enough for."""
    return num_processes or max(1, visible_gpus() // gpus_per_rank)


def prepare_process() -> None:
    """Set what a process needs before it loads torch and DeepSpeed."""
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
