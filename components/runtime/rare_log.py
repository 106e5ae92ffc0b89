"""Log what fails again and again, such as a call of a ticking thread, without filling the log."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

SECONDS = 60.0


class RareLog:
    """A log to which each subject's errors are written once a minute."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Log nothing yet.

        Args:
            log: Where the errors are written.
            clock: Seconds that never go back.
        """
        self._log, self._clock = log, clock
        self._logged_at: dict[str, float] = {}

    @contextlib.contextmanager
    def attempt(self, subject: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Log an error of the block, and go on behind it.

        Args:
            subject: What the block is about, such as a campaign's name.
            but: Errors that are raised all the same.
        """
        try:
            yield
        except but:
            raise
        except Exception as error:
            now = self._clock()
            if now - self._logged_at.get(subject, -SECONDS) < SECONDS:
                return
            self._logged_at[subject] = now
            # A damaged file says all in one line; anything else is a fault of ours, and needs its place.
            is_told = isinstance(error, ValueError | OSError)
            told = str(error) or type(error).__name__
            self._log.error("%s: %s; it is tried again, and told once a minute", subject, told, exc_info=not is_told)
        else:
            self._logged_at.pop(subject, None)
