"""End with one line and exit code 143 when somebody asks the process to, from its first import on."""

import os
import signal
import threading
from types import FrameType

LINE = b"ratchet: ended by SIGTERM; run the same command again to continue\n"


def end_on_sigterm() -> None:
    """Handle SIGTERM. As the first process of a container, one without a handler would not even be ended by it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _: FrameType | None) -> None:
    os.write(2, LINE)
    raise SystemExit(128 + number)
