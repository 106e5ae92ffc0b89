"""Delete texts beyond the retention limit while a server runs. Knows no server."""

import logging
import time
from collections.abc import Callable

from components.feedback.store import FeedbackStore
from components.records import ServiceFailed

EVERY_SECONDS = 3600.0
"""Seconds between two deletions."""
RETRY_SECONDS = 60.0
"""Seconds until one that failed is tried again."""
log = logging.getLogger(__name__)


class Retention:
    """Deletes the texts of a store again and again."""

    def __init__(self, store: FeedbackStore, *, days: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Delete what is due now.

        Args:
            store: The store.
            days: Age from which on texts are deleted.
            clock: Seconds that never go back.

        Raises:
            ServiceFailed: The file cannot be used.
            ValueError: It is damaged.
        """
        self._store, self._days, self._clock = store, days, clock
        store.erase_texts(days=days)
        self._due = clock() + EVERY_SECONDS

    def look(self) -> None:
        """Delete what is due, if it is time; a full disk must not end the server, and is tried again."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + EVERY_SECONDS
        try:
            self._store.erase_texts(days=self._days)
        except (ServiceFailed, ValueError) as error:
            log.error("texts beyond preferences.feedback.retention_days are not deleted yet: %s", error)
            self._due = self._clock() + RETRY_SECONDS
