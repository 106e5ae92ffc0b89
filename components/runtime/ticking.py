"""Do something again and again beside other work."""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def every(seconds: float, act: Callable[[], bool | None]) -> Iterator[None]:
    """Call a function at every so many seconds within the block, from a thread.

    Args:
        seconds: Seconds between the end of a call and the next one.
        act: The function; it is not called again once it returns true.
    """
    over = threading.Event()

    def tick() -> None:
        while not over.wait(seconds):
            if act():
                return

    # With the context of this thread, from which Prefect takes the flow run that a log record belongs to.
    thread = threading.Thread(target=contextvars.copy_context().run, args=[tick], daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
