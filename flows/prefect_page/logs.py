"""The log records of components and their child processes, on the run's page."""

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect.logging.handlers import APILogHandler, APILogWorker

from components.config import TrackingConfig

LOGGER, WITHOUT_TEXTS = "components", "components.tracking"
log = logging.getLogger(__name__)
SEND_SECONDS = 120
"""How long `send_logs` waits for the Prefect server; a server on two cores takes five seconds for 3,000 records."""


def send_logs() -> None:
    """Wait until the Prefect server has accepted all log records so far.

    Prefect's own flush gives up after 5 s.
    """
    # In a thread that has an event loop, such as a notebook's, Prefect would not wait.
    with ThreadPoolExecutor(1) as executor:
        drained: Any = executor.submit(APILogWorker.drain_all, timeout=SEND_SECONDS).result()
    if drained.not_done:
        log.warning(
            "the Prefect server did not accept all log lines within %d s: its page lacks the last ones", SEND_SECONDS
        )


@contextlib.contextmanager
def logs_on_page(tracking: TrackingConfig) -> Iterator[None]:
    """Send the components' log records within the block to their flow run, from level INFO on, each once.

    Prefect's own setting for further loggers adds its handler but leaves them at Python's default level, which drops
    the output of child processes.

    Args:
        tracking: Without texts, only what is said of MLflow is sent: stages and child processes may quote responses.
    """
    logger = logging.getLogger(LOGGER if tracking.texts else WITHOUT_TEXTS)
    before = logger.level
    has_handler = any(isinstance(handler, APILogHandler) for handler in logger.handlers)
    handler = None if has_handler else APILogHandler()
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
