"""Say in one line that another system than Linux cannot run Ratchet. Imports nothing that another system lacks."""

import sys

USER_INPUT = 2


def refuse_other_systems() -> None:
    """End the process with exit code 2 unless it runs on Linux.

    Stages lock files, end child processes with their parent and measure memory by means of the Linux kernel.
    """
    if sys.platform != "linux":
        sys.stderr.write(
            f"ratchet: Ratchet needs Linux, and this is {sys.platform}: run it in a Linux container, on a Linux "
            "machine, or in WSL on Windows\n"
        )
        raise SystemExit(USER_INPUT)
