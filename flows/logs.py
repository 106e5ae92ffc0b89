"""What components and their child processes log, on the run's page."""

import contextlib
import logging
from collections.abc import Iterator

from prefect.logging.handlers import APILogHandler, APILogWorker

LOGGER = "components"
SEND_SECONDS = 120
"""How long a block waits until the Prefect server has its log records; 3,000 of them take a server on two cores five seconds."""


def send_logs() -> None:
    """Waits until the Prefect server has all log records so far; Prefect's own flush leaves those that it did not take within 5 s."""
    APILogWorker.drain_all(timeout=SEND_SECONDS)


@contextlib.contextmanager
def logs_on_page() -> Iterator[None]:
    """Sends the components' log records within the block to the flow run they belong to, from INFO on, each once.

    Prefect's own setting for further loggers adds its handler but leaves them at Python's default level, which drops what children say.
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
