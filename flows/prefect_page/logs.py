"""What components and their child processes log, on the run's page."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect.logging.handlers import APILogHandler, APILogWorker

LOGGER = "components"
log = logging.getLogger(__name__)
SEND_SECONDS = 120
"""How long a block waits until the Prefect server has its log records; 3,000 of them take a server on two cores five
seconds."""


def send_logs() -> None:
    """Waits until the Prefect server has all log records so far.

    Prefect's own flush leaves those that it did not take within 5 s.
    """
    with ThreadPoolExecutor(1) as aside:  # in a thread with an event loop, as a notebook's, Prefect would not wait
        waited: Any = aside.submit(APILogWorker.drain_all, timeout=SEND_SECONDS).result()
    if waited.not_done:
        log.warning(
            "the Prefect server did not take all log lines within %d s: its page lacks the last ones", SEND_SECONDS
        )


@contextlib.contextmanager
def logs_on_page() -> Iterator[None]:
    """Sends the components' log records within the block to the flow run they belong to, from INFO on, each once.

    Prefect's own setting for further loggers adds its handler but leaves them at Python's default level, which drops
    what children say.
    """
    logger = logging.getLogger(LOGGER)
    before = logger.level
    handler = None if any(isinstance(one, APILogHandler) for one in logger.handlers) else APILogHandler()
    logger.setLevel(logging.INFO)
    if handler is not None:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        if handler is not None:
            logger.removeHandler(handler)
            send_logs()
